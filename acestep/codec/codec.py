"""The seam between latents and sound."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor


class Codec(Protocol):
    """Turns audio into latents and back. One latent frame is `hop_length` samples."""

    @property
    def sample_rate(self) -> int:
        """Hz."""
        ...

    @property
    def hop_length(self) -> int:
        """Samples in one latent frame."""
        ...

    @property
    def latent_channels(self) -> int:
        """Size of one latent frame."""
        ...

    def encode(self, audio: Tensor) -> Tensor:
        """Audio `[batch, 2, samples]` in -1..1 to latents `[batch, samples // hop_length, latent_channels]`.

        Deterministic: the mean of the distribution where the codec has one.
        """
        ...

    def decode(self, latents: Tensor, on_tile: Callable[[float], None] | None = None) -> Tensor:
        """Latents `[batch, frames, latent_channels]` to float32 audio `[batch, 2, frames * hop_length]`.

        `on_tile` hears the fraction done (0..1) after each piece and may raise to stop.
        """
        ...

    def low_memory(self) -> Codec:
        """The same codec at work in smaller pieces, for less memory; itself where it has none smaller."""
        ...
