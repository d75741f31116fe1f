"""The nano model before it knows anything: its sizes, its tokenizer, and its trainable modules."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

from acestep.codec.sine_bank import SineBankCodec, SineBankConfig
from acestep.synthesizer.loading import published_name

LAYERS = 5
TEXT_WIDTH = 128
VOCABULARY = 2_048
PAD = "<|endoftext|>"
SPECIAL_TOKENS = (PAD, "<|im_start|>", "<|im_end|>", "<think>", "</think>")
SILENCE_SECONDS = 60  # the least that holds a whole number of beats at every whole tempo
# Beats a minute of the clocks in nano's silence, 2.3 % apart: the tempi that can be asked for.
CLOCKS = tuple(round(60 * 3 ** (n / 49)) for n in range(50))
_CLOCK_DEPTH = 6.0  # deviations of the latents that a clock swings by

CONFIG: dict[str, Any] = {
    "model_type": "acestep",
    "model_version": "nano",
    "is_turbo": False,
    "acestep_notice": (
        "This is the bundled nano model: a few million weights, instrumental only, for trying the server and "
        "for tests. Get the real model with `uv run acestep-download acestep-v15-turbo`."
    ),
    "acestep_defaults": {"steps": 16, "guidance_scale": 4.0, "shift": 1.0},
    "hidden_size": 320,
    "intermediate_size": 576,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 5,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "encoder_hidden_size": 192,
    "encoder_intermediate_size": 384,
    "encoder_num_attention_heads": 3,
    "encoder_num_key_value_heads": 3,
    "audio_acoustic_hidden_dim": 101,
    "timbre_hidden_dim": 101,
    "in_channels": 303,
    "patch_size": 2,
    "use_sliding_window": True,
    "sliding_window": 64,
    "layer_types": ["sliding_attention", "full_attention"] * (LAYERS // 2) + ["sliding_attention"],
    "rope_theta": 10_000,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "rms_norm_eps": 1e-6,
    "text_hidden_dim": TEXT_WIDTH,
    "num_lyric_encoder_hidden_layers": 1,
    "num_timbre_encoder_hidden_layers": 1,
    "timbre_fix_frame": 750,
    "num_attention_pooler_hidden_layers": 1,
    "pool_window_size": 5,
    "fsq_dim": 192,
    "fsq_input_levels": [8, 8, 8],
    "fsq_input_num_quantizers": 1,
    # Published: -0.4 and 1.0. Tempo and key are decided where noise is nearly all there is.
    "timestep_mu": 0.4,
    "timestep_sigma": 1.2,
}


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """The tokenizer of the text encoder."""
    tokenizer = train_bpe(texts, VOCABULARY, SPECIAL_TOKENS)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=PAD)


def train_bpe(texts: Iterable[str], size: int, special_tokens: Sequence[str]) -> Tokenizer:
    """A byte-level BPE; digits stay apart, so that 117 is close to 118 for the model."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(special_tokens),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def build_text_encoder() -> Qwen3Model:
    """A Qwen3 of about a million weights."""
    return Qwen3Model(
        Qwen3Config(
            vocab_size=VOCABULARY,
            hidden_size=TEXT_WIDTH,
            intermediate_size=384,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=4_096,
            rope_theta=10_000.0,
            tie_word_embeddings=False,
            pad_token_id=0,
            eos_token_id=0,
        )
    )


def ticking_silence(codec: SineBankCodec) -> Tensor:
    """A minute of silence with clocks in it, `[1, T, C]`.

    The source of a song made from words is silence, so it is the one input that can tell a model where in
    the song it is. Values below the codec's floor are inaudible, so the clocks are there: channel 2n and
    2n + 1 swing as sine and cosine at `CLOCKS[n]` beats a minute, and a model too small to count seconds
    has only to choose.
    """
    frame_rate = codec.sample_rate / codec.hop_length
    floor = codec.encode(torch.zeros(1, 2, codec.hop_length * 50))[0, :1]
    seconds = torch.arange(round(SILENCE_SECONDS * frame_rate))[:, None] / frame_rate
    angle = 2 * math.pi * seconds * torch.tensor(CLOCKS)[None] / 60
    clocks = torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)
    silence = floor.repeat(len(seconds), 1)
    # A tenth of a deviation stays free, since bfloat16 must not round a peak above the floor.
    silence[:, : clocks.shape[1]] += (clocks - 1.1) * (_CLOCK_DEPTH / 2)
    return silence[None]


def write_folder(
    folder: Path,
    modules: dict[str, nn.Module],
    tokenizer: PreTrainedTokenizerFast,
    codec: SineBankConfig,
) -> None:
    """Write nano as a self-contained folder in the published layout, weights in bfloat16."""
    folder.mkdir(parents=True, exist_ok=True)
    config = json.dumps(CONFIG, indent=2) + "\n"
    (folder / "config.json").write_text(config, encoding="utf-8")
    save_file(published_tensors(modules), folder / "model.safetensors", metadata={"format": "pt"})
    silence = ticking_silence(SineBankCodec(codec)).transpose(1, 2).to(torch.bfloat16)
    torch.save(silence.contiguous(), folder / "silence_latent.pt")
    codec.write(folder / "vae")
    text_folder = folder / "text_encoder"
    modules["text_encoder"].to(torch.bfloat16).save_pretrained(text_folder)  # type: ignore[operator]
    tokenizer.save_pretrained(text_folder)


def published_tensors(modules: dict[str, nn.Module]) -> dict[str, Tensor]:
    """Every tensor of the DiT's folder under its name in the published layout, in bfloat16."""
    return {
        published_name(name): tensor.detach().to(torch.bfloat16).contiguous()
        for name, tensor in modules["networks"].state_dict().items()
        if name != "encoder.silence_latent"  # a file of its own
    }
