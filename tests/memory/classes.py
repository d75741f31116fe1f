"""The real classes at any size, on the meta device, where they cost nothing; and their published configs."""

import warnings
from typing import Any

import torch
from diffusers import AutoencoderOobleck
from transformers import Qwen3Config, Qwen3Model

from acestep.catalog.checkpoints import NANO_FOLDER
from acestep.memory.sizes import DitSize, QwenSize, VaeSize
from acestep.networks.oobleck import Oobleck, OobleckConfig
from acestep.synthesizer.loading import SynthesizerNetworks, published_config

_FRAMES_A_SECOND = 25  # of all published models


def config_of(size: DitSize) -> dict[str, object]:
    """The config.json that a DiT of these sizes would be published with."""
    layer, encoder = size.layer, size.encoder
    return {
        "hidden_size": layer.width,
        "intermediate_size": layer.inner,
        "num_attention_heads": layer.heads,
        "num_key_value_heads": layer.kv_heads,
        "head_dim": layer.head,
        "encoder_hidden_size": encoder.width,
        "encoder_intermediate_size": encoder.inner,
        "encoder_num_attention_heads": encoder.heads,
        "encoder_num_key_value_heads": encoder.kv_heads,
        "num_hidden_layers": size.layers,
        "num_lyric_encoder_hidden_layers": size.lyric_layers,
        "num_timbre_encoder_hidden_layers": size.timbre_layers,
        "num_attention_pooler_hidden_layers": size.pooler_layers,
        "audio_acoustic_hidden_dim": size.channels,
        "timbre_hidden_dim": size.channels,
        "in_channels": size.in_channels,
        "patch_size": size.patch,
        "sliding_window": size.window,
        "text_hidden_dim": size.text_width,
        "pool_window_size": size.pool,
        "fsq_dim": size.fsq_width,
        "fsq_input_levels": [8, 8, 8, 5, 5, 5][: size.fsq_levels],  # 64,000 codes, as published
        "rope_theta": 1e6,
        "rms_norm_eps": 1e-6,
        "is_turbo": size.is_turbo,
    }


def dit_modules(size: DitSize) -> SynthesizerNetworks:
    config = published_config(config_of(size), NANO_FOLDER / "config.json")
    with torch.device("meta"):
        return SynthesizerNetworks(config).to("meta")


def qwen_config(size: QwenSize) -> Any:
    """The config that a Qwen3 of these sizes would be published with."""
    layer = size.layer
    return Qwen3Config(
        vocab_size=size.vocabulary,
        hidden_size=layer.width,
        intermediate_size=layer.inner,
        num_hidden_layers=size.layers,
        num_attention_heads=layer.heads,
        num_key_value_heads=layer.kv_heads,
        head_dim=layer.head,
        max_position_embeddings=size.longest,
        tie_word_embeddings=size.tied,
    )


def qwen(size: QwenSize) -> Qwen3Model:
    with torch.device("meta"):
        return Qwen3Model(qwen_config(size))


def stored_oobleck(size: VaeSize) -> AutoencoderOobleck:
    """As its file has it: of each convolution's weights, direction and length."""
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return AutoencoderOobleck(
            encoder_hidden_size=size.channels,
            downsampling_ratios=list(size.ratios),
            channel_multiples=list(size.multiples),
            decoder_channels=size.decoder_channels,
            decoder_input_channels=size.latents,
            audio_channels=size.sounds,
            sampling_rate=_FRAMES_A_SECOND * size.hop,
        )


def oobleck(size: VaeSize) -> Oobleck:
    """As it computes."""
    config = OobleckConfig(
        encoder_hidden_size=size.channels,
        decoder_channels=size.decoder_channels,
        decoder_input_channels=size.latents,
        audio_channels=size.sounds,
        sampling_rate=_FRAMES_A_SECOND * size.hop,
        downsampling_ratios=size.ratios,
        channel_multiples=size.multiples,
    )
    with torch.device("meta"):
        return Oobleck(config)
