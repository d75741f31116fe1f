"""What turns text and reference into what the DiT attends to.

B songs, T latent frames of C channels, L states, H hidden size.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from acestep.networks.config import LayerConfig, SynthesizerConfig
from acestep.networks.layers import GatedMLP, RMSNorm, Rotary, band_mask, random_parameter, rotary_tables
from acestep.networks.transformer import attention

_SILENCE_FRAMES = 15_000  # of the latents of silence in every published checkpoint


class EncoderLayer(nn.Module):
    def __init__(self, config: LayerConfig, window: int | None) -> None:
        super().__init__()
        self.is_sliding = window is not None
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = GatedMLP(config.hidden_size, config.intermediate_size)

    def forward(self, x: Tensor, rotary: Rotary, band: Tensor | None) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rotary, band=band if self.is_sliding else None)
        mixed: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return mixed


class Encoder(nn.Module):
    """Attends in both directions, `[B, S, inside]` to `[B, S, H]`. There is no padding: songs come alone."""

    def __init__(self, config: LayerConfig, inside: int, layers: int) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Linear(inside, config.hidden_size)
        self.layers = nn.ModuleList(EncoderLayer(config, window) for window in config.windows(layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.transform(self.embed_tokens(x))

    def transform(self, x: Tensor) -> Tensor:
        config, length = self.config, x.shape[1]
        rotary = rotary_tables(torch.arange(length, device=x.device), config.head_dim, config.rope_theta)
        band = band_mask(length, config.sliding_window, x)
        for layer in self.layers:
            x = layer(x, rotary, band)
        normed: Tensor = self.norm(x)
        return normed


class ConditionEncoder(nn.Module):
    null_condition_emb: Tensor  # [1, 1, H], stands for all states where a song is unconditional
    silence_latent: Tensor  # [1, T, C]

    def __init__(self, config: SynthesizerConfig) -> None:
        super().__init__()
        layer, width = config.encoder, config.encoder.hidden_size
        self.text_projector = nn.Linear(config.text_width, width, bias=False)
        self.lyric_encoder = Encoder(layer, config.text_width, config.lyric_layers)
        alternating = replace(layer, layer_types=())  # the published timbre encoders take no types
        self.timbre_encoder = Encoder(alternating, config.latent_channels, config.timbre_layers)
        # In the published files, but without use there too.
        self.timbre_encoder.special_token = random_parameter(1, 1, width)
        self.null_condition_emb = random_parameter(1, 1, width)
        self.register_buffer("silence_latent", torch.zeros(1, _SILENCE_FRAMES, config.latent_channels))

    def forward(self, caption: Tensor, lyrics: Tensor, timbre: Tensor) -> Tensor:
        """The states `[1, L, H]` of one song, from its caption's states and its embedded lyrics."""
        return torch.cat([self.lyric_encoder(lyrics), timbre, self.text_projector(caption)], dim=1)

    def timbre(self, reference: Tensor) -> Tensor:
        """The timbre `[B, 1, H]` of reference latents `[B, T, C]`."""
        encoded: Tensor = self.timbre_encoder(reference)
        return encoded[:, :1]
