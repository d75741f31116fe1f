"""Writes checkpoint folders of a few bytes, whole or lacking something, for the tests."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from acestep.catalog.checkpoints import NANO_FOLDER, read_json


def write_json(path: Path, **values: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values), encoding="utf-8")


def link_nano(checkpoints: Path, name: str, **config: object) -> Path:
    """The bundled model under another name, with what differs in its config; its weights are links."""
    folder = checkpoints / name
    folder.mkdir(parents=True)
    for part in ("model.safetensors", "silence_latent.pt", "text_encoder", "vae"):
        (folder / part).symlink_to(NANO_FOLDER / part)
    write_json(folder / "config.json", **(read_json(NANO_FOLDER / "config.json") | config))
    return folder


def write_model(folder: Path, **config: object) -> Path:
    """Named as transformers does it; a config with `_class_name` is named as diffusers does it."""
    write_json(folder / "config.json", **config)
    weights = "diffusion_pytorch_model.safetensors" if "_class_name" in config else "model.safetensors"
    save_file({"weight": np.zeros(8, np.float32)}, folder / weights)
    return folder


def write_dit(folder: Path, **config: object) -> Path:
    write_model(folder, **config)
    (folder / "silence_latent.pt").write_bytes(b"latent")
    return folder


def write_text_encoder(folder: Path) -> Path:
    write_model(folder)
    write_json(folder / "tokenizer.json")
    return folder


def write_vae(folder: Path) -> Path:
    return write_model(folder, _class_name="AutoencoderOobleck")


def write_published(checkpoints: Path, name: str = "acestep-v15-turbo", **config: object) -> Path:
    """A published DiT with the parts beside it."""
    write_vae(checkpoints / "vae")
    write_text_encoder(checkpoints / "Qwen3-Embedding-0.6B")
    return write_dit(checkpoints / name, **{"is_turbo": "turbo" in name, **config})


def write_nano(checkpoints: Path) -> Path:
    """A self-contained folder with a computed codec, as the bundled model is one."""
    folder = write_dit(
        checkpoints / "acestep-nano",
        is_turbo=False,
        acestep_notice="This is nano.",
        acestep_defaults={"steps": 16, "guidance_scale": 3.5},
    )
    write_json(folder / "vae" / "config.json", _class_name="SineBankCodec")
    write_text_encoder(folder / "text_encoder")
    return folder


def write_diffusers(folder: Path) -> Path:
    parts = ("transformer", "condition_encoder", "audio_tokenizer", "audio_token_detokenizer", "vae")
    index = {part: ["diffusers", "Class"] for part in (*parts, "text_encoder", "tokenizer", "scheduler")}
    write_json(folder / "model_index.json", _class_name="AceStepPipeline", unused=[None, None], **index)
    for part in parts:
        write_model(folder / part, _class_name="Class", is_turbo=True, model_version="turbo")
    write_model(folder / "text_encoder")
    write_json(folder / "tokenizer" / "tokenizer.json")
    write_json(folder / "scheduler" / "scheduler_config.json")
    return folder
