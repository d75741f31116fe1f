"""Nano before it knows anything: its sizes, silence and tokenizer, and the folder that the server loads."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

from acestep.codec.tone_noise import ToneNoiseCodec, ToneNoiseConfig
from training.nano.learning.examples import FRAME_RATE, LONGEST
from training.nano.model import CLOCKS, PAD, SPECIAL_TOKENS, published_tensors, train_bpe

TEXT_WIDTH = 160
VOCABULARY = 2_560
LAYERS = 6
CHANNELS = sum(ToneNoiseConfig().sizes)
_DEPTH = 6.0  # deviations of the latents that a clock swings by
_PERIODS = (960.0, 480.0, 240.0, 120.0, 60.0, 30.0, 15.0, 8.0)  # seconds of the slow clocks

NOTICE = (
    "This is the bundled nano model: a few million weights, instrumental only, for trying the server and "
    "for tests. Get the real model with `uv run acestep-download acestep-v15-turbo`."
)
GUIDED = {"steps": 16, "guidance_scale": 4.0, "shift": 1.0}
# Not `is_turbo`: the server refuses extract, lego and complete of turbo models.
DISTILLED = {"steps": 8, "guidance_scale": 1.0, "shift": 2.0}

CONFIG: dict[str, Any] = {
    "model_type": "acestep",
    "model_version": "nano",
    "is_turbo": False,
    "acestep_notice": NOTICE,
    "acestep_defaults": GUIDED,
    "hidden_size": 320,
    "intermediate_size": 512,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 5,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "encoder_hidden_size": 192,
    "encoder_intermediate_size": 384,
    "encoder_num_attention_heads": 3,
    "encoder_num_key_value_heads": 3,
    "audio_acoustic_hidden_dim": CHANNELS,
    "timbre_hidden_dim": CHANNELS,
    "in_channels": 3 * CHANNELS,
    "patch_size": 2,
    "use_sliding_window": True,
    "sliding_window": 64,
    "layer_types": ["sliding_attention", "full_attention"] * (LAYERS // 2),
    "rope_theta": 10_000,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "rms_norm_eps": 1e-6,
    "text_hidden_dim": TEXT_WIDTH,
    "num_lyric_encoder_hidden_layers": 1,
    "num_timbre_encoder_hidden_layers": 2,  # the second hears all of a reference, the first 2.6 s
    "timbre_fix_frame": 750,
    "num_attention_pooler_hidden_layers": 1,
    "pool_window_size": 5,
    "fsq_dim": 192,
    "fsq_input_levels": [8, 8, 8, 5],
    "fsq_input_num_quantizers": 1,
    "timestep_mu": 0.4,
    "timestep_sigma": 1.2,
}


def build_text_encoder() -> Qwen3Model:
    return Qwen3Model(
        Qwen3Config(
            vocab_size=VOCABULARY,
            hidden_size=TEXT_WIDTH,
            intermediate_size=448,
            num_hidden_layers=3,
            num_attention_heads=5,
            num_key_value_heads=5,
            head_dim=32,
            max_position_embeddings=4_096,
            rope_theta=10_000.0,
            tie_word_embeddings=False,
            pad_token_id=0,
            eos_token_id=0,
        )
    )


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    tokenizer = train_bpe(texts, VOCABULARY, SPECIAL_TOKENS)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=PAD)


def ticking_silence(config: ToneNoiseConfig) -> Tensor:
    """Silence with clocks in it, `[1, T, C]`, of `LONGEST` seconds.

    Values below the codec's floor are inaudible. There, channel 2n and 2n + 1 swing as sine and cosine at
    `CLOCKS[n]` beats a minute, which tell the tempo's place, and those after them with the periods that tell
    the place in the song.
    """
    floor = ToneNoiseCodec(config).encode(torch.zeros(1, 2, config.hop_length * 20))[0, :1]
    seconds = torch.arange(round(LONGEST * FRAME_RATE))[:, None] / FRAME_RATE
    rates = torch.tensor([*(bpm / 60 for bpm in CLOCKS), *(1 / period for period in _PERIODS)])
    angle = 2 * math.pi * seconds * rates[None]
    clocks = torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)
    silence = floor.repeat(len(seconds), 1)
    # A tenth of a deviation stays free, since bfloat16 must not round a peak above the floor.
    silence[:, : clocks.shape[1]] += (clocks - 1.1) * (_DEPTH / 2)
    # The server stores it in bfloat16, so the model learns from that.
    return silence[None].bfloat16().float()


def write_folder(
    folder: Path,
    modules: Mapping[str, nn.Module],
    tokenizer: PreTrainedTokenizerFast,
    codec: ToneNoiseConfig,
    defaults: Mapping[str, float],
) -> None:
    """Write nano as a self-contained folder in the published layout, weights in bfloat16."""
    folder.mkdir(parents=True, exist_ok=True)
    config = json.dumps(CONFIG | {"acestep_defaults": dict(defaults)}, indent=2) + "\n"
    (folder / "config.json").write_text(config, encoding="utf-8")
    save_file(published_tensors(dict(modules)), folder / "model.safetensors", metadata={"format": "pt"})
    silence = ticking_silence(codec).transpose(1, 2).to(torch.bfloat16)
    torch.save(silence.contiguous(), folder / "silence_latent.pt")
    codec.write(folder / "vae")
    text_folder = folder / "text_encoder"
    modules["text_encoder"].to(torch.bfloat16).save_pretrained(text_folder)  # type: ignore[operator]
    tokenizer.save_pretrained(text_folder)
