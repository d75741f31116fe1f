"""Checkpoints of a few thousand random weights, written in the layouts that users have on disk.

Real model classes at toy size. No size is a published one, so a constant in the synthesizer would fail.
"""

import json
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
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

from acestep.domain.song import Sampling, SongPlan
from acestep.settings.types import Quantization
from acestep.synthesizer.loading import SynthesizerModules, load_synthesizer
from acestep.weights.safetensors import LoadTarget

CHANNELS, MASK_CHANNELS, TEXT_WIDTH, REFERENCE_FRAMES, FRAME_RATE = 24, 10, 16, 20, 12.5

LAYER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "rope_theta": 10_000,
    "rms_norm_eps": 1e-6,
    "sliding_window": 8,
}
DIT = {
    "num_hidden_layers": 3,
    "in_channels": 2 * CHANNELS + MASK_CHANNELS,
    "audio_acoustic_hidden_dim": CHANNELS,
    "patch_size": 2,
}
ENCODER = {
    "text_hidden_dim": TEXT_WIDTH,
    "timbre_hidden_dim": CHANNELS,
    "num_lyric_encoder_hidden_layers": 2,
    "num_timbre_encoder_hidden_layers": 2,
}
POOLER = {
    "audio_acoustic_hidden_dim": CHANNELS,
    "pool_window_size": 4,
    "num_attention_pooler_hidden_layers": 2,
}
LAYER_TYPES = ["sliding_attention", "full_attention", "sliding_attention"]
XL_ENCODER = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
}

# Those of diffusers to the published names.
_PARTS = {
    "transformer": "decoder",
    "condition_encoder": "encoder",
    "audio_tokenizer": "tokenizer",
    "audio_token_detokenizer": "detokenizer",
}
_NAMES = {
    "proj_in_conv": "proj_in.1",
    "proj_out_conv": "proj_out.1",
    "to_q": "q_proj",
    "to_k": "k_proj",
    "to_v": "v_proj",
    "to_out.0": "o_proj",
    "norm_q": "q_norm",
    "norm_k": "k_norm",
}


@dataclass(frozen=True)
class Toy:
    """A checkpoint on disk, and the modules that it was written from."""

    dit: Path
    text_encoder: Path
    tokenizer: Path
    parts: dict[str, Any]
    text_encoder_module: Any

    def load(
        self, dtype: torch.dtype = torch.float32, quantization: Quantization = "none"
    ) -> SynthesizerModules:
        place = LoadTarget(torch.device("cpu"), dtype, quantization)
        return load_synthesizer(self.dit, self.text_encoder, self.tokenizer, place)


def write_published(folder: Path, *, turbo: bool = False, xl: bool = False, shards: int = 1) -> Toy:
    """A DiT folder as the models' authors publish it, with the text encoder beside it."""
    parts = _modules(turbo=turbo, xl=xl)
    dit = folder / "dit"
    dit.mkdir(parents=True)
    tensors = {_published(f"{part}.{name}"): tensor for part, name, tensor in _tensors(parts)}
    silence = tensors.pop("encoder.silence_latent")
    torch.save(silence.transpose(1, 2).to(torch.bfloat16), dit / "silence_latent.pt")
    (dit / "config.json").write_text(json.dumps(_published_config(turbo=turbo, xl=xl)))
    if shards == 1:
        save_file(tensors, dit / "model.safetensors")
    else:
        _write_shards(dit, tensors, shards)
    text_encoder_module = _write_text_encoder(folder / "qwen", folder / "qwen")
    return Toy(dit, folder / "qwen", folder / "qwen", parts, text_encoder_module)


def write_diffusers(folder: Path, *, turbo: bool = False, xl: bool = False) -> Toy:
    """A pipeline folder as diffusers saves it."""
    parts = _modules(turbo=turbo, xl=xl)
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    text_encoder_module = _write_text_encoder(folder / "text_encoder", folder / "tokenizer")
    return Toy(folder, folder / "text_encoder", folder / "tokenizer", parts, text_encoder_module)


def song(**changes: Any) -> SongPlan:
    """A plan of 4 s, which is an odd number of patches and longer than the toy's sliding window."""
    plan = {
        "caption": "slow piano",
        "lyrics": "[Verse]\nHello",
        "language": "en",
        "duration": 4.08,
        "seed": 1,
        "instruction": "Do it:",
        "sampling": Sampling(steps=3, guidance_scale=1.0, shift=1.0),
        "bpm": 90,
    }
    return SongPlan(**{**plan, **changes})


def _modules(*, turbo: bool, xl: bool) -> dict[str, Any]:
    torch.manual_seed(7)
    encoder_layer = {**LAYER, **XL_ENCODER} if xl else LAYER
    width = encoder_layer["hidden_size"]
    parts = {
        "transformer": AceStepTransformer1DModel(
            **LAYER, **DIT, layer_types=LAYER_TYPES, encoder_hidden_size=width, is_turbo=turbo
        ),
        "condition_encoder": AceStepConditionEncoder(**encoder_layer, **ENCODER, layer_types=LAYER_TYPES),
        "audio_tokenizer": AceStepAudioTokenizer(
            **encoder_layer, **POOLER, fsq_dim=width, fsq_input_levels=[4, 3], layer_types=LAYER_TYPES[:2]
        ),
        "audio_token_detokenizer": AceStepAudioTokenDetokenizer(
            **encoder_layer, **POOLER, layer_types=LAYER_TYPES[:2]
        ),
    }
    # Shorter than a song, and exact in bfloat16, in which it is stored.
    parts["condition_encoder"].silence_latent = torch.randn(1, 30, CHANNELS).to(torch.bfloat16).float()
    return parts


def _published_config(*, turbo: bool, xl: bool) -> dict[str, Any]:
    own_sizes = {f"encoder_{size}": value for size, value in XL_ENCODER.items()} if xl else {}
    return {
        **(LAYER | DIT | ENCODER | POOLER | own_sizes),
        "fsq_dim": XL_ENCODER["hidden_size"] if xl else LAYER["hidden_size"],
        "fsq_input_levels": [4, 3],
        "fsq_input_num_quantizers": 1,
        "layer_types": LAYER_TYPES,
        "timbre_fix_frame": REFERENCE_FRAMES,
        "is_turbo": turbo,
        "model_version": "turbo" if turbo else "base",
        "vocab_size": 64003,
    }


def _tensors(parts: dict[str, Any]) -> list[tuple[str, str, Tensor]]:
    return [(part, name, t) for part, module in parts.items() for name, t in module.state_dict().items()]


def _published(name: str) -> str:
    part, _, rest = name.partition(".")
    return rest if rest == "null_condition_emb" else f"{_PARTS[part]}.{our_name(rest)}"


def our_name(name: str) -> str:
    """What we call a tensor that diffusers calls `name`, as the published files do."""
    for theirs, ours in _NAMES.items():
        name = name.replace(theirs, ours)
    return name


def _write_shards(folder: Path, tensors: dict[str, Tensor], shards: int) -> None:
    names = sorted(tensors)
    file_of = {name: f"model-{number % shards + 1:05}.safetensors" for number, name in enumerate(names)}
    for file in set(file_of.values()):
        save_file({name: tensors[name] for name in names if file_of[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": file_of}))


def write_text_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """A tokenizer of bytes, as a text encoder has one beside it."""
    alphabet = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<|endoftext|>")
    tokenizer.save_pretrained(folder)
    return tokenizer


def _write_text_encoder(folder: Path, tokenizer_folder: Path) -> Any:
    tokenizer = write_text_tokenizer(tokenizer_folder)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
    )
    torch.manual_seed(8)
    model = Qwen3Model(config)
    model.save_pretrained(folder)
    return model
