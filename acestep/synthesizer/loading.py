"""From a checkpoint on disk to modules in memory."""

from __future__ import annotations

import inspect
import math
import pickle
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import (
    AceStepAudioTokenDetokenizer,
    AceStepAudioTokenizer,
    AceStepConditionEncoder,
    AceStepTransformer1DModel,
)
from tokenizers import Tokenizer
from torch import Tensor, nn

from acestep.catalog.adapters import PUBLISHED_NAMES
from acestep.catalog.checkpoints import read_json
from acestep.errors import CheckpointError
from acestep.networks.qwen3 import Qwen3, Qwen3Config, load_tokenizer
from acestep.synthesizer.transformer import use_fused_attention
from acestep.weights.offload import ModulePlacement
from acestep.weights.safetensors import LoadTarget, TensorIndex, fill
from acestep.weights.shared_modules import SharedModules

Config = dict[str, object]

# `timbre_fix_frame` of every published config: 30 s at 25 latent frames a second. Not in diffusers' layout.
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

# The names of the modules in the published files; those of their layers are in `catalog.adapters`.
_PUBLISHED_MODULES = {
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
class ModelConfig:
    is_turbo: bool
    model_version: str
    latent_channels: int
    mask_channels: int  # of the chunk mask in the DiT's input
    reference_frames: int  # latent frames of a timbre reference
    frames_per_code: int
    code_count: int


@dataclass(frozen=True, slots=True, eq=False)
class SynthesizerModules:
    transformer: AceStepTransformer1DModel
    condition_encoder: AceStepConditionEncoder
    audio_tokenizer: AceStepAudioTokenizer
    audio_token_detokenizer: AceStepAudioTokenDetokenizer
    text_encoder: Qwen3
    tokenizer: Tokenizer
    silence_latent: Tensor  # [1, T, latent_channels]
    config: ModelConfig
    placement: ModulePlacement | None = None  # None: all modules stay on the device


def load_synthesizer(
    dit: Path,
    text_encoder: Path,
    tokenizer: Path,
    target: LoadTarget,
    shared: SharedModules | None = None,
) -> SynthesizerModules:
    """Load a DiT folder (either layout), a Qwen3 folder and the folder of its tokenizer.json.

    Raises CheckpointError, which names the file and the tensor or setting that does not fit.
    """
    shared = shared or SharedModules()
    if (dit / "transformer").is_dir():
        modules, reference_frames = _load_diffusers(dit, target), _PUBLISHED_REFERENCE_FRAMES
    else:
        modules, reference_frames = _load_published(dit, target, shared)
    condition_encoder: AceStepConditionEncoder = modules["condition_encoder"]
    encoder = shared.get(text_encoder, target, lambda: _load_text_encoder(text_encoder, target))
    expected_width = condition_encoder.config.text_hidden_dim
    if encoder.config.hidden_size != expected_width:
        raise CheckpointError(
            f"{text_encoder}: hidden_size is {encoder.config.hidden_size}, but {dit} was trained with"
            f" a text encoder of {expected_width}"
        )
    return SynthesizerModules(
        transformer=modules["transformer"],
        condition_encoder=condition_encoder,
        audio_tokenizer=modules["audio_tokenizer"],
        audio_token_detokenizer=modules["audio_token_detokenizer"],
        text_encoder=encoder,
        tokenizer=load_tokenizer(tokenizer),
        silence_latent=condition_encoder.silence_latent,
        config=_model_config(modules["transformer"], modules["audio_tokenizer"], reference_frames),
    )


def _load_published(
    folder: Path, target: LoadTarget, shared: SharedModules
) -> tuple[dict[str, nn.Module], int]:
    path = folder / "config.json"
    config = read_json(path)
    configs = published_configs(config, path)
    modules = {name: _build(cls, configs[name], target) for name, cls in MODULE_CLASSES.items()}
    channels = _integer(configs["condition_encoder"], "timbre_hidden_dim", path)
    silence = folder / "silence_latent.pt"
    modules["condition_encoder"].silence_latent = shared.get(
        silence, (target, channels), lambda: _read_silence(silence, channels).to(target.device, target.dtype)
    )
    fill(nn.ModuleDict(modules), TensorIndex.of(folder), target, published_name, packed="transformer.layers")
    if "timbre_fix_frame" not in config:
        return modules, _PUBLISHED_REFERENCE_FRAMES
    return modules, _integer(config, "timbre_fix_frame", path)


def _load_diffusers(folder: Path, target: LoadTarget) -> dict[str, nn.Module]:
    modules: dict[str, nn.Module] = {}
    for name, cls in MODULE_CLASSES.items():
        index = TensorIndex.of(folder / name, "diffusion_pytorch_model")
        known = inspect.signature(cls.__init__).parameters
        config = read_json(folder / name / "config.json")
        module = _build(cls, {key: value for key, value in config.items() if key in known}, target)
        if name == "condition_encoder":  # checkpoints have silence of different lengths
            module.silence_latent = torch.empty(index.shape("silence_latent"), device="meta")
        fill(module, index, target, packed="layers" if name == "transformer" else "")
        modules[name] = module
    return modules


def _build(cls: type[nn.Module], config: Config, target: LoadTarget) -> nn.Module:
    with torch.device("meta"):
        module = cls(**config)
    # The quantizer's buffers are computed, not stored.
    if isinstance(module, AceStepAudioTokenizer):
        quantizer = module.quantizer
        width = quantizer.project_in.in_features
        computed = type(quantizer)(width, quantizer.levels, quantizer.num_quantizers)
        for name, tensor in computed.named_buffers():
            quantizer.register_buffer(name, tensor.to(target.device), persistent=False)
    if cls is not AceStepTransformer1DModel:  # its layers are run by `Transformer`
        use_fused_attention(module)
    return module


def published_configs(config: Config, path: Path) -> dict[str, Config]:
    """The settings of each module of MODULE_CLASSES, out of the one config of a published folder."""
    for_encoders = config | {
        size: config[f"encoder_{size}"] for size in _OWN_ENCODER_SIZES if config.get(f"encoder_{size}")
    }
    pooler = _pick(for_encoders, path, _POOLER, _LAYER_OPTIONS)
    layer_types = pooler.get("layer_types")
    if isinstance(layer_types, list):
        depth = _integer(pooler, "num_attention_pooler_hidden_layers", path)
        pooler["layer_types"] = layer_types[:depth]
    quantizer = _pick(for_encoders, path, ("fsq_dim", "fsq_input_levels"), ("fsq_input_num_quantizers",))
    dit_options = (*_LAYER_OPTIONS, "is_turbo", "model_version", "encoder_hidden_size")
    return {
        "transformer": _pick(config, path, _TRANSFORMER, dit_options),
        "condition_encoder": _pick(for_encoders, path, _ENCODER, _LAYER_OPTIONS),
        "audio_tokenizer": pooler | quantizer,
        "audio_token_detokenizer": pooler,
    }


def _pick(config: Config, path: Path, required: Iterable[str], optional: Iterable[str]) -> Config:
    for name in required:
        if name not in config:
            raise CheckpointError(f"{path}: {name!r} is missing")
    return {name: config[name] for name in (*required, *optional) if name in config}


def _integer(config: Mapping[str, object], name: str, path: Path) -> int:
    value = config[name]
    if not isinstance(value, int):
        raise CheckpointError(f"{path}: {name!r} is {value!r}; a whole number is expected")
    return value


def published_name(name: str) -> str:
    """The name in a published file of the tensor that is `<module>.<name>` here."""
    if name == "condition_encoder.null_condition_emb":
        return "null_condition_emb"
    module, _, rest = name.partition(".")
    published = f"{_PUBLISHED_MODULES[module]}.{rest}"
    for ours, theirs in PUBLISHED_NAMES.items():
        published = published.replace(ours, theirs)
    return published


def _read_silence(path: Path, channels: int) -> Tensor:
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from error
    if not isinstance(stored, Tensor) or stored.ndim != 3 or stored.shape[:2] != (1, channels):
        raise CheckpointError(f"{path}: a tensor of shape [1, {channels}, frames] is expected")
    return stored.transpose(1, 2).contiguous()  # [1, frames, channels]


def _load_text_encoder(folder: Path, target: LoadTarget) -> Qwen3:
    with torch.device("meta"):
        model = Qwen3(Qwen3Config.read(folder / "config.json"))
    index = TensorIndex.of(folder)
    # A checkpoint that was saved with a language model's head has prefixed names.
    prefix = "model." if all(name.startswith("model.") for name in index.files) else ""
    fill(model, index, target, lambda name: prefix + name)
    return model


def _model_config(
    transformer: AceStepTransformer1DModel, audio_tokenizer: AceStepAudioTokenizer, reference_frames: int
) -> ModelConfig:
    dit, tokenizer = transformer.config, audio_tokenizer.config
    channels = dit.audio_acoustic_hidden_dim
    return ModelConfig(
        is_turbo=bool(dit.is_turbo),
        model_version=dit.model_version or "",
        latent_channels=channels,
        # The DiT's input is [source latents | chunk mask | noisy latents].
        mask_channels=dit.in_channels - 2 * channels,
        reference_frames=reference_frames,
        frames_per_code=tokenizer.pool_window_size,
        code_count=math.prod(tokenizer.fsq_input_levels) ** tokenizer.fsq_input_num_quantizers,
    )
