"""From a checkpoint on disk to modules in memory."""

from __future__ import annotations

import inspect
import math
import pickle
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AceStepAudioTokenDetokenizer,
    AceStepAudioTokenizer,
    AceStepConditionEncoder,
    AceStepTransformer1DModel,
)
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

from acestep.catalog.adapters import PUBLISHED_NAMES
from acestep.catalog.checkpoints import read_json
from acestep.errors import CheckpointError
from acestep.synthesizer.attention import keep_no_scores
from acestep.weights.offload import ModulePlacement
from acestep.weights.safetensors import LoadTarget, TensorIndex, fill
from acestep.weights.shared_modules import SharedModules

# Thirty seconds at 25 latent frames a second; what every published config says as `timbre_fix_frame`.
# The diffusers layout does not say it.
_PUBLISHED_REFERENCE_FRAMES = 750

_ATTENTION = ("num_attention_heads", "num_key_value_heads", "head_dim", "rope_theta", "rms_norm_eps")
_LAYER = ("hidden_size", "intermediate_size", *_ATTENTION, "sliding_window")
_LAYER_OPTIONS = ("attention_bias", "attention_dropout", "layer_types")
_TRANSFORMER = (*_LAYER, "num_hidden_layers", "in_channels", "audio_acoustic_hidden_dim", "patch_size")
_ENCODER = (
    *(*_LAYER, "text_hidden_dim", "timbre_hidden_dim"),
    *("num_lyric_encoder_hidden_layers", "num_timbre_encoder_hidden_layers"),
)
_POOLER = (*_LAYER, "audio_acoustic_hidden_dim", "pool_window_size", "num_attention_pooler_hidden_layers")

# XL models size their encoders apart from the DiT, in fields of their own.
_OWN_ENCODER_SIZES = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")

# How the published files call our modules; the parts in them are in `adapters`.
_PUBLISHED_PARTS = {
    "transformer": "decoder",
    "condition_encoder": "encoder",
    "audio_tokenizer": "tokenizer",
    "audio_token_detokenizer": "detokenizer",
}
MODULE_CLASSES = {
    "transformer": AceStepTransformer1DModel,
    "condition_encoder": AceStepConditionEncoder,
    "audio_tokenizer": AceStepAudioTokenizer,
    "audio_token_detokenizer": AceStepAudioTokenDetokenizer,
}


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the configs say that the rest of the synthesizer must know.

    `latent_channels` and `mask_channels` are the widths of the source latents and of the chunk mask in
    the DiT's input, `reference_frames` the length of a timbre reference, `frames_per_code` and
    `code_count` describe the audio tokenizer.
    """

    is_turbo: bool
    model_version: str
    latent_channels: int
    mask_channels: int
    reference_frames: int
    frames_per_code: int
    code_count: int


@dataclass(frozen=True, slots=True, eq=False)
class SynthesizerModules:
    """Everything that turns a `SongPlan` into latents; `silence_latent` is `[1, T, latent_channels]`.

    With a `placement`, code enters a module's group before it computes with the module; None: every module is
    on the device.
    """

    transformer: AceStepTransformer1DModel
    condition_encoder: AceStepConditionEncoder
    audio_tokenizer: AceStepAudioTokenizer
    audio_token_detokenizer: AceStepAudioTokenDetokenizer
    text_encoder: Qwen3Model
    tokenizer: PreTrainedTokenizerFast
    silence_latent: Tensor
    facts: ModelFacts
    placement: ModulePlacement | None = None


def load_synthesizer(
    dit: Path,
    text_encoder: Path,
    tokenizer: Path,
    place: LoadTarget,
    shared: SharedModules | None = None,
) -> SynthesizerModules:
    """Load a DiT folder (either layout), a Qwen3 folder and the folder of its tokenizer.json.

    What `shared` holds already is used as it is; of the rest, the DiT alone is quantized, if `place` says so.
    Raises CheckpointError that names the file, and the tensor or setting, where something does not fit.
    """
    shared = shared or SharedModules()
    if (dit / "transformer").is_dir():
        parts, reference_frames = _load_diffusers(dit, place), _PUBLISHED_REFERENCE_FRAMES
    else:
        parts, reference_frames = _load_published(dit, place, shared)
    encoder = shared.get(text_encoder, place, lambda: _load_text_encoder(text_encoder, place))
    expected_width = parts["condition_encoder"].config.text_hidden_dim
    if encoder.config.hidden_size != expected_width:
        raise CheckpointError(
            f"{text_encoder}: hidden_size is {encoder.config.hidden_size}, but {dit} was trained with"
            f" a text encoder of {expected_width}"
        )
    return SynthesizerModules(
        transformer=parts["transformer"],
        condition_encoder=parts["condition_encoder"],
        audio_tokenizer=parts["audio_tokenizer"],
        audio_token_detokenizer=parts["audio_token_detokenizer"],
        text_encoder=encoder,
        tokenizer=_load_tokenizer(tokenizer),
        silence_latent=parts["condition_encoder"].silence_latent,
        facts=_facts(parts, reference_frames),
    )


def _load_published(folder: Path, place: LoadTarget, shared: SharedModules) -> tuple[dict[str, Any], int]:
    config = read_json(folder / "config.json")
    configs = published_configs(config, folder / "config.json")
    parts = {name: _build(cls, configs[name], place) for name, cls in MODULE_CLASSES.items()}
    channels = configs["condition_encoder"]["timbre_hidden_dim"]
    path = folder / "silence_latent.pt"
    parts["condition_encoder"].silence_latent = shared.get(
        path, (place, channels), lambda: _read_silence(path, channels).to(place.device, place.dtype)
    )
    fill(nn.ModuleDict(parts), TensorIndex.of(folder), place, published_name, packed="transformer.layers")
    return parts, int(config.get("timbre_fix_frame", _PUBLISHED_REFERENCE_FRAMES))


def _load_diffusers(folder: Path, place: LoadTarget) -> dict[str, Any]:
    parts: dict[str, Any] = {}
    for name, cls in MODULE_CLASSES.items():
        index = TensorIndex.of(folder / name, "diffusion_pytorch_model")
        known = inspect.signature(cls.__init__).parameters
        config = read_json(folder / name / "config.json")
        parts[name] = _build(cls, {key: value for key, value in config.items() if key in known}, place)
        if name == "condition_encoder":  # its length is the checkpoint's to choose
            parts[name].silence_latent = torch.empty(index.shape("silence_latent"), device="meta")
        fill(parts[name], index, place, packed="layers" if name == "transformer" else "")
    return parts


def _build(cls: type, config: dict[str, Any], place: LoadTarget) -> Any:
    """A module without weights. What it computes instead of loading is real at once."""
    with torch.device("meta"):
        module = cls(**config)
    if cls is AceStepAudioTokenizer:
        quantizer = module.quantizer
        width = quantizer.project_in.in_features
        real = type(quantizer)(width, quantizer.levels, quantizer.num_quantizers)
        for name, tensor in real.named_buffers():
            quantizer.register_buffer(name, tensor.to(place.device), persistent=False)
    if cls is not AceStepTransformer1DModel:  # whose layers `transformer` drives
        keep_no_scores(module)
    return module


def published_configs(config: dict[str, Any], path: Path) -> dict[str, dict[str, Any]]:
    """The settings of each module of MODULE_CLASSES, out of the one config of a published folder."""
    for_encoders = config | {
        size: config[f"encoder_{size}"] for size in _OWN_ENCODER_SIZES if config.get(f"encoder_{size}")
    }
    pooler = _pick(for_encoders, path, _POOLER, _LAYER_OPTIONS)
    if "layer_types" in pooler:
        pooler["layer_types"] = pooler["layer_types"][: pooler["num_attention_pooler_hidden_layers"]]
    quantizer = _pick(for_encoders, path, ("fsq_dim", "fsq_input_levels"), ("fsq_input_num_quantizers",))
    dit_options = (*_LAYER_OPTIONS, "is_turbo", "model_version", "encoder_hidden_size")
    return {
        "transformer": _pick(config, path, _TRANSFORMER, dit_options),
        "condition_encoder": _pick(for_encoders, path, _ENCODER, _LAYER_OPTIONS),
        "audio_tokenizer": pooler | quantizer,
        "audio_token_detokenizer": pooler,
    }


def _pick(
    config: dict[str, Any], path: Path, required: Iterable[str], optional: Iterable[str]
) -> dict[str, Any]:
    for name in required:
        if name not in config:
            raise CheckpointError(f"{path}: {name!r} is missing")
    return {name: config[name] for name in (*required, *optional) if name in config}


def published_name(name: str) -> str:
    """What a published file calls a tensor that is `<module>.<name>` here."""
    if name == "condition_encoder.null_condition_emb":
        return "null_condition_emb"
    part, _, rest = name.partition(".")
    published = f"{_PUBLISHED_PARTS[part]}.{rest}"
    for ours, theirs in PUBLISHED_NAMES.items():
        published = published.replace(ours, theirs)
    return published


def _read_silence(path: Path, channels: int) -> Tensor:
    """The latents of silence; stored as `[1, C, T]`, given as `[1, T, C]`."""
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from error
    if not isinstance(stored, Tensor) or stored.ndim != 3 or stored.shape[:2] != (1, channels):
        raise CheckpointError(f"{path}: a tensor of shape [1, {channels}, frames] is expected")
    return stored.transpose(1, 2).contiguous()


def _load_text_encoder(folder: Path, place: LoadTarget) -> Qwen3Model:
    path = folder / "config.json"
    config = Qwen3Config.from_dict(read_json(path))
    with torch.device("meta"):
        model = Qwen3Model(config)
    model.rotary_emb = type(model.rotary_emb)(config)  # computes its tables, which are in no file
    index = TensorIndex.of(folder)
    # A checkpoint that was saved as part of a language model prefixes its names.
    prefix = "model." if all(name.startswith("model.") for name in index.files) else ""
    fill(model, index, place, lambda name: prefix + name)
    return model


def _load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer exactly as tokenizer.json has it, with no class guessed from a config."""
    read_json(folder / "tokenizer.json")  # a broken file is told from here, by name
    return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)


def _facts(parts: dict[str, Any], reference_frames: int) -> ModelFacts:
    transformer, tokenizer = parts["transformer"].config, parts["audio_tokenizer"].config
    channels = transformer.audio_acoustic_hidden_dim
    return ModelFacts(
        is_turbo=bool(transformer.is_turbo),
        model_version=transformer.model_version or "",
        latent_channels=channels,
        # The DiT's input is [source latents | chunk mask | noisy latents].
        mask_channels=transformer.in_channels - 2 * channels,
        reference_frames=reference_frames,
        frames_per_code=tokenizer.pool_window_size,
        code_count=math.prod(tokenizer.fsq_input_levels) ** tokenizer.fsq_input_num_quantizers,
    )
