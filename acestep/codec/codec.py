from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from acestep.catalog.checkpoints import read_json
from acestep.codec import sine_bank, tone_noise
from acestep.codec.oobleck import DEFAULT_TILE_FRAMES, OobleckCodec
from acestep.codec.sine_bank import SineBankCodec
from acestep.codec.tone_noise import ToneNoiseCodec
from acestep.errors import CheckpointError


class Codec(Protocol):
    @property
    def sample_rate(self) -> int: ...

    @property
    def hop_length(self) -> int:
        """Samples in one latent frame."""
        ...

    @property
    def latent_channels(self) -> int: ...

    def encode(self, audio: Tensor) -> Tensor:
        """Audio `[B, 2, N]` in -1..1 to latents `[B, N // hop_length, C]`. Draws nothing at random."""
        ...

    def decode(self, latents: Tensor, on_tile: Callable[[float], None] | None = None) -> Tensor:
        """Latents `[B, T, C]` to float32 audio `[B, 2, T * hop_length]`.

        `on_tile` gets the fraction done, 0 to 1, and may raise to stop.
        """
        ...

    def low_memory(self) -> Codec:
        """The same codec with smaller tiles, if it has any."""
        ...


def load_codec(
    folder: Path, device: torch.device, dtype: torch.dtype, tile_frames: int = DEFAULT_TILE_FRAMES
) -> Codec:
    """Load the codec of a `vae/` folder. Raises CheckpointError."""
    path = folder / "config.json"
    name = read_json(path).get("_class_name")
    if name == sine_bank.CLASS_NAME:
        return SineBankCodec.load(folder, device)
    if name == tone_noise.CLASS_NAME:
        return ToneNoiseCodec.load(folder, device)
    if name == "AutoencoderOobleck":
        return OobleckCodec.load(folder, device, dtype, tile_frames)
    known = f"AutoencoderOobleck, {sine_bank.CLASS_NAME}, {tone_noise.CLASS_NAME}"
    raise CheckpointError(f"{path}: _class_name is {name!r}; known are {known}")
