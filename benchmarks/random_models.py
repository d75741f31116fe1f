"""Folders in the published layout whose weights mean nothing: models of any size, without a download.

Names, shapes and configs are those of the real classes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from acestep.catalog.checkpoints import SHARED_PARTS
from acestep.memory.plan import Sizes
from acestep.memory.sizes import DitSize, QwenSize, VaeSize
from acestep.synthesizer.loading import published_name
from tests.memory.classes import config_of, dit_modules, qwen, qwen_config, stored_oobleck
from tests.planner.toy import Toy, write_tokenizer
from tests.synthesizer.toy import write_text_tokenizer

_PIECE = 2**30  # bytes of a file, and about what is in main memory at once
_LARGE = 0.5  # what a matrix makes of numbers of size 1

Named = Iterable[tuple[str, Tensor]]


def write_models(folder: Path, sizes: Sizes, device: torch.device) -> None:
    """All models of `sizes`, each in the folder that its name means; `device` draws the numbers."""
    draw = _Draw(device)
    vae, text = (folder / name for name in SHARED_PARTS)
    for dit in sizes.dits:
        _write_dit(folder / dit.name, dit, draw)
    _write_qwen(text, sizes.text, draw)
    write_text_tokenizer(text)
    if sizes.vae:
        _write_vae(vae, sizes.vae, draw)
    for planner in sizes.planners:
        _write_qwen(folder / planner.name, planner, draw)
        # A published planner has its codes beyond the words of the text encoder.
        write_tokenizer(folder / planner.name, Toy(codes=planner.vocabulary - sizes.text.vocabulary))


def _write_dit(folder: Path, size: DitSize, draw: _Draw) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config_of(size)))
    parts = dit_modules(size)
    torch.save(draw("latent", parts.encoder.silence_latent.transpose(1, 2)), folder / "silence_latent.pt")
    named = (
        (published_name(name), tensor)
        for name, tensor in parts.state_dict().items()
        if name != "encoder.silence_latent"
    )
    _write(folder, "model", named, draw)


def _write_qwen(folder: Path, size: QwenSize, draw: _Draw) -> None:
    if not size.tied:
        raise ValueError(f"{size.name}: only models whose head is their embedding are written")
    qwen_config(size).save_pretrained(folder)
    _write(folder, "model", qwen(size).state_dict().items(), draw)


def _write_vae(folder: Path, size: VaeSize, draw: _Draw) -> None:
    vae = stored_oobleck(size)
    vae.save_config(folder)
    _write(folder, "diffusion_pytorch_model", vae.state_dict().items(), draw)


def _write(folder: Path, stem: str, named: Named, draw: _Draw) -> None:
    """Shards with an index, none much larger than a piece."""
    files: dict[str, str] = {}
    piece: dict[str, Tensor] = {}

    def flush() -> None:
        file = f"{stem}-{len(set(files.values())) + 1:05}.safetensors"
        save_file(piece, folder / file)
        files.update(dict.fromkeys(piece, file))
        piece.clear()

    for name, shape in named:
        piece[name] = draw(name, shape)
        if sum(tensor.nbytes for tensor in piece.values()) >= _PIECE:
            flush()
    if piece:
        flush()
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps({"weight_map": files}))


class _Draw:
    """Random weights in bfloat16, in main memory."""

    def __init__(self, device: torch.device) -> None:
        self._chance = torch.Generator(device).manual_seed(0)

    def __call__(self, name: str, like: Tensor) -> Tensor:
        """Weights of the shape of `like`, as large as those called `name` should be."""
        kind = name.rpartition(".")[2]
        shape, dtype = tuple(like.shape), torch.bfloat16
        if kind in ("bias", "alpha", "beta"):  # the latter two are of snakes, which take exp of them
            return torch.zeros(shape, dtype=dtype)
        if kind == "weight_g" or (kind == "weight" and len(shape) == 1):  # lengths, and norms
            return torch.ones(shape, dtype=dtype)
        numbers = torch.randn(shape, generator=self._chance, device=self._chance.device, dtype=dtype)
        incoming = like.numel() // shape[0] if kind.startswith("weight") else 1
        return numbers.mul_(_LARGE / math.sqrt(incoming)).cpu()
