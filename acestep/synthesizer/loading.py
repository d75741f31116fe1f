"""From a checkpoint on disk to modules in memory."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from acestep.catalog.adapters import DIFFUSERS_NAMES
from acestep.catalog.checkpoints import read_json
from acestep.errors import CheckpointError
from acestep.networks.codes import AudioTokenDetokenizer, AudioTokenizer
from acestep.networks.config import LayerConfig, SynthesizerConfig
from acestep.networks.config_file import ConfigFile
from acestep.networks.encoders import ConditionEncoder
from acestep.networks.qwen3 import Qwen3, Qwen3Config, load_tokenizer
from acestep.networks.transformer import Transformer
from acestep.weights.offload import ModulePlacement
from acestep.weights.safetensors import LoadTarget, TensorIndex, fill, without_memory
from acestep.weights.shared_modules import SharedModules

Config = dict[str, object]

# The folders of diffusers' layout, and the names of their modules in published files.
_DIFFUSERS_MODULES = {
    "transformer": "decoder",
    "condition_encoder": "encoder",
    "audio_tokenizer": "tokenizer",
    "audio_token_detokenizer": "detokenizer",
}

_LAYER_TYPES = {"sliding_attention", "full_attention"}

# XL models size their encoders apart from the DiT, in fields of their own.
_OWN_ENCODER_SIZES = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")


class SynthesizerNetworks(nn.Module):
    """The modules of a DiT's folder, under their published names."""

    def __init__(self, config: SynthesizerConfig) -> None:
        super().__init__()
        self.decoder = Transformer(config)
        self.encoder = ConditionEncoder(config)
        self.tokenizer = AudioTokenizer(config)
        self.detokenizer = AudioTokenDetokenizer(config)


@dataclass(frozen=True, slots=True, eq=False)
class SynthesizerModules:
    transformer: Transformer
    condition_encoder: ConditionEncoder
    audio_tokenizer: AudioTokenizer
    audio_token_detokenizer: AudioTokenDetokenizer
    text_encoder: Qwen3
    tokenizer: Tokenizer
    silence_latent: Tensor  # [1, T, latent_channels]
    config: SynthesizerConfig
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
        networks, config = _load_diffusers(dit, target)
    else:
        networks, config = _load_published(dit, target, shared)
    encoder = shared.get(text_encoder, target, lambda: _load_text_encoder(text_encoder, target))
    if encoder.config.hidden_size != config.text_width:
        raise CheckpointError(
            f"{text_encoder}: hidden_size is {encoder.config.hidden_size}, but {dit} was trained with"
            f" a text encoder of {config.text_width}"
        )
    return SynthesizerModules(
        transformer=networks.decoder,
        condition_encoder=networks.encoder,
        audio_tokenizer=networks.tokenizer,
        audio_token_detokenizer=networks.detokenizer,
        text_encoder=encoder,
        tokenizer=load_tokenizer(tokenizer),
        silence_latent=networks.encoder.silence_latent,
        config=config,
    )


def _load_published(
    folder: Path, target: LoadTarget, shared: SharedModules
) -> tuple[SynthesizerNetworks, SynthesizerConfig]:
    path = folder / "config.json"
    config = published_config(read_json(path), path)
    networks = _on_meta(config)
    silence, channels = folder / "silence_latent.pt", config.latent_channels
    networks.encoder.silence_latent = shared.get(
        silence, (target, channels), lambda: _read_silence(silence, channels).to(target.device, target.dtype)
    )
    fill(networks, TensorIndex.of(folder), target, published_name, packed="decoder.layers")
    return networks, config


def _load_diffusers(folder: Path, target: LoadTarget) -> tuple[SynthesizerNetworks, SynthesizerConfig]:
    dit, encoder, pooler, _ = (ConfigFile.read(folder / name / "config.json") for name in _DIFFUSERS_MODULES)
    config = _config(dit, encoder, pooler)
    networks = _on_meta(config)
    for name, module in _DIFFUSERS_MODULES.items():
        index = TensorIndex.of(folder / name, "diffusion_pytorch_model")
        if name == "condition_encoder":  # checkpoints have silence of different lengths
            networks.encoder.silence_latent = torch.empty(index.shape("silence_latent"), device="meta")
        packed = "layers" if name == "transformer" else ""
        fill(networks.get_submodule(module), index, target, diffusers_name, packed)
    return networks, config


def _on_meta(config: SynthesizerConfig) -> SynthesizerNetworks:
    with without_memory():
        return SynthesizerNetworks(config)


def published_config(config: Config, path: Path) -> SynthesizerConfig:
    """What the one config of a published folder, at `path`, says."""
    for_encoders = config | {
        size: config[f"encoder_{size}"] for size in _OWN_ENCODER_SIZES if config.get(f"encoder_{size}")
    }
    file, encoders = ConfigFile(path, config), ConfigFile(path, for_encoders)
    read = _config(file, encoders, encoders)
    return (
        replace(read, reference_frames=file.size("timbre_fix_frame"))
        if "timbre_fix_frame" in config
        else read
    )


def _config(dit: ConfigFile, encoder: ConfigFile, pooler: ConfigFile) -> SynthesizerConfig:
    if "fsq_input_num_quantizers" in pooler.content:
        pooler.check("fsq_input_num_quantizers", 1)
    dit_layers, latent_channels = dit.size("num_hidden_layers"), dit.size("audio_acoustic_hidden_dim")
    lyric_layers = encoder.size("num_lyric_encoder_hidden_layers")
    pooler_layers = pooler.size("num_attention_pooler_hidden_layers")
    return SynthesizerConfig(
        dit=_layer(dit, dit_layers),
        encoder=_layer(encoder, lyric_layers),
        pooler=_layer(pooler, pooler_layers),
        dit_layers=dit_layers,
        lyric_layers=lyric_layers,
        timbre_layers=encoder.size("num_timbre_encoder_hidden_layers"),
        pooler_layers=pooler_layers,
        patch_size=dit.size("patch_size"),
        latent_channels=latent_channels,
        mask_channels=dit.size("in_channels") - 2 * latent_channels,
        text_width=encoder.size("text_hidden_dim"),
        frames_per_code=pooler.size("pool_window_size"),
        code_levels=pooler.sizes("fsq_input_levels"),
        is_turbo=bool(dit.content.get("is_turbo")),
        model_version=str(dit.content.get("model_version") or ""),
    )


def _layer(file: ConfigFile, layers: int) -> LayerConfig:
    types = file.content.get("layer_types") or []
    if not isinstance(types, list) or 0 < len(types) < layers or not set(types) <= _LAYER_TYPES:
        raise file.error("layer_types", f"a list of {layers} times {' or '.join(sorted(_LAYER_TYPES))}")
    if "sliding_window" not in file.content:
        raise file.error("sliding_window", "a whole number or null")
    return LayerConfig(
        hidden_size=file.size("hidden_size"),
        intermediate_size=file.size("intermediate_size"),
        num_attention_heads=file.size("num_attention_heads"),
        num_key_value_heads=file.size("num_key_value_heads"),
        head_dim=file.size("head_dim"),
        rope_theta=file.number("rope_theta"),
        rms_norm_eps=file.number("rms_norm_eps"),
        sliding_window=None if file.content["sliding_window"] is None else file.size("sliding_window"),
        attention_bias=bool(file.content.get("attention_bias")),
        layer_types=tuple(types),
    )


def published_name(name: str) -> str:
    """The name in a published file of the tensor `name` of `SynthesizerNetworks`."""
    return name.removeprefix("encoder.") if name == "encoder.null_condition_emb" else name


def diffusers_name(name: str) -> str:
    """The name in diffusers' layout of the tensor `name` of one module."""
    name = f".{name}"
    for ours, theirs in DIFFUSERS_NAMES.items():
        name = name.replace(ours, theirs)
    return name[1:]


def _read_silence(path: Path, channels: int) -> Tensor:
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from error
    if not isinstance(stored, Tensor) or stored.ndim != 3 or stored.shape[:2] != (1, channels):
        raise CheckpointError(f"{path}: a tensor of shape [1, {channels}, frames] is expected")
    return stored.transpose(1, 2).contiguous()  # [1, frames, channels]


def _load_text_encoder(folder: Path, target: LoadTarget) -> Qwen3:
    with without_memory():
        model = Qwen3(Qwen3Config.read(folder / "config.json"))
    index = TensorIndex.of(folder)
    # A checkpoint that was saved with a language model's head has prefixed names.
    prefix = "model." if all(name.startswith("model.") for name in index.files) else ""
    fill(model, index, target, lambda name: prefix + name)
    return model
