"""Latents to audio codes, and back.

B songs, N codes of P latent frames each, C channels of a frame, H hidden size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from acestep.networks.config import LayerConfig, SynthesizerConfig
from acestep.networks.encoders import Encoder
from acestep.networks.layers import random_parameter


class AttentionPooler(Encoder):
    """Pools the frames of each code, `[B, N, P, H]` to `[B, N, H]`."""

    def __init__(self, config: LayerConfig, layers: int) -> None:
        super().__init__(config, config.hidden_size, layers)
        self.special_token = random_parameter(1, 1, config.hidden_size, scale=0.02)

    def forward(self, x: Tensor) -> Tensor:
        frames = self.embed_tokens(x.flatten(0, 1))
        first = self.special_token.expand(len(frames), -1, -1)
        return self.transform(torch.cat([first, frames], dim=1))[:, 0].view(*x.shape[:2], -1)


class Quantizer(nn.Module):
    """Finite scalar quantization: a code is a point in a grid with `levels` points to each side."""

    intervals: Tensor  # of the grid to each side

    # Float32 throughout, since rounding decides codes.

    def __init__(self, width: int, levels: tuple[int, ...]) -> None:
        super().__init__()
        self.project_in = nn.Linear(width, len(levels))
        self.project_out = nn.Linear(len(levels), width)
        self.levels = levels
        # Not stored, so real even where the module is built on the meta device.
        intervals = torch.tensor(levels, device="cpu", dtype=torch.float32) - 1.0
        self.register_buffer("intervals", intervals, persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Quantized states like `x` `[..., H]`, and their codes `[...]`."""
        grid = self.grid(self.bound(x))
        return self.expand(grid).to(x.dtype), self.codes(grid)

    def look_up(self, codes: Tensor) -> Tensor:
        """The states `[..., H]` of codes `[...]`."""
        positions, rest = [], codes
        for levels in self.levels:
            positions.append(rest % levels)
            rest = rest // levels
        grid = torch.stack(positions, dim=-1).float() * (2.0 / self.intervals.float()) - 1.0
        return self.expand(grid).to(self.project_out.weight.dtype)

    def bound(self, x: Tensor) -> Tensor:
        """A point `[..., len(levels)]` a state, little farther from 0 than 1."""
        reach = 1.0 + 1.0 / self.intervals.float()
        inside = functional.linear(x.float(), self.project_in.weight.float(), self.project_in.bias.float())
        return torch.tanh(inside / reach) * reach

    def grid(self, bounded: Tensor) -> Tensor:
        """The nearest point of the grid, from -1 to 1."""
        intervals = self.intervals.float()
        positions = torch.floor(intervals * (bounded.clamp(-1.0, 1.0) + 1.0) / 2.0 + 0.5)
        return (2.0 / intervals) * positions - 1.0

    def codes(self, grid: Tensor) -> Tensor:
        positions = ((grid + 1.0) / (2.0 / self.intervals.float())).round().long()
        code = torch.zeros_like(positions[..., 0])
        for place, levels in zip(reversed(range(len(self.levels))), reversed(self.levels), strict=True):
            code = code * levels + positions[..., place]
        return code

    def expand(self, grid: Tensor) -> Tensor:
        return functional.linear(grid, self.project_out.weight.float(), self.project_out.bias.float())


class AudioTokenizer(nn.Module):
    """Latents to audio codes."""

    def __init__(self, config: SynthesizerConfig) -> None:
        super().__init__()
        width = config.pooler.hidden_size
        self.frames_per_code = config.frames_per_code
        self.audio_acoustic_proj = nn.Linear(config.latent_channels, width)
        self.attention_pooler = AttentionPooler(config.pooler, config.pooler_layers)
        self.quantizer = Quantizer(width, config.code_levels)

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Quantized states `[B, N, H]` and codes `[B, N]` of latents `[B, N * P, C]`."""
        quantized: tuple[Tensor, Tensor] = self.quantizer(self.pool(latents))
        return quantized

    def pool(self, latents: Tensor) -> Tensor:
        codes = latents.view(len(latents), -1, self.frames_per_code, latents.shape[2])
        frames = self.audio_acoustic_proj(codes)
        pooled: Tensor = self.attention_pooler(frames)
        return pooled


class AudioTokenDetokenizer(Encoder):
    """Quantized states `[B, N, H]` to latents `[B, N * P, C]`."""

    def __init__(self, config: SynthesizerConfig) -> None:
        layer, width = config.pooler, config.pooler.hidden_size
        super().__init__(layer, width, config.pooler_layers)
        self.special_tokens = random_parameter(1, config.frames_per_code, width, scale=0.02)
        self.proj_out = nn.Linear(width, config.latent_channels)

    def forward(self, quantized: Tensor) -> Tensor:
        states = self.embed_tokens(quantized).flatten(0, 1)[:, None] + self.special_tokens
        frames: Tensor = self.proj_out(self.transform(states))
        return frames.reshape(len(quantized), -1, frames.shape[2])
