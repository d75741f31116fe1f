"""The codec of the published models: the Oobleck VAE, run in tiles."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from acestep.errors import UnusableAudioError
from acestep.networks.oobleck import (
    RESIDUAL_UNITS,
    SEVEN_TAPS,
    Oobleck,
    OobleckConfig,
    join_weights,
    split_weights,
)
from acestep.weights.safetensors import LoadTarget, TensorIndex, fill, without_memory

# 20 s at the published 25 frames a second: about 1 GB of activations in float32.
DEFAULT_TILE_FRAMES = 512
# Smaller ones save little: a tile is computed with about ten frames to each side.
_SMALLEST_TILE_FRAMES = 64


@dataclass(frozen=True, slots=True)
class _Tile:
    start: int
    stop: int
    first: int  # frames `start..stop` depend on `first..last`
    last: int


class OobleckCodec:
    def __init__(
        self,
        vae: Oobleck,
        tile_frames: int = DEFAULT_TILE_FRAMES,
        overlap_frames: int | None = None,
    ) -> None:
        """`overlap_frames` are computed to each side of a tile; raises ValueError where they leave seams."""
        needed = receptive_frames(vae.config.downsampling_ratios)
        if overlap_frames is not None and overlap_frames < needed:
            raise ValueError(f"an overlap of {overlap_frames} frames leaves seams; {needed} are needed")
        self.vae = vae
        self._tile_frames = tile_frames
        self._overlap = needed if overlap_frames is None else overlap_frames

    @classmethod
    def load(
        cls, folder: Path, device: torch.device, dtype: torch.dtype, tile_frames: int = DEFAULT_TILE_FRAMES
    ) -> OobleckCodec:
        with without_memory():
            vae = Oobleck(OobleckConfig.read(folder / "config.json"))
        # Weights are stored as direction and length; multiplied out once, in float32, before they are cast.
        split_weights(vae)
        index = TensorIndex.of(folder, "diffusion_pytorch_model")
        is_recent = any(".parametrizations." in name for name in index.files)
        fill(vae, index, LoadTarget(device, torch.float32), _recent_name if is_recent else str)
        join_weights(vae)
        return cls(vae.to(dtype), tile_frames)

    @property
    def sample_rate(self) -> int:
        return self.vae.config.sampling_rate

    @property
    def hop_length(self) -> int:
        return self.vae.config.hop_length

    @property
    def latent_channels(self) -> int:
        return self.vae.config.decoder_input_channels

    @torch.inference_mode()
    def encode(self, audio: Tensor) -> Tensor:
        """The mean of the latent distribution; raises UnusableAudioError for less than one frame."""
        frames = audio.shape[-1] // self.hop_length
        if frames == 0:
            raise UnusableAudioError(
                f"The audio has less than {self.hop_length} samples, which is one frame."
            )
        songs = []
        for samples in audio.to(self.vae.device, self.vae.dtype):
            tiles = []
            for tile in self._tiles(frames):
                window = samples[:, tile.first * self.hop_length : tile.last * self.hop_length]
                mean = self.vae.encode(window[None])[0].T
                tiles.append(mean[tile.start - tile.first : tile.stop - tile.first].float())
            songs.append(torch.cat(tiles))
        return torch.stack(songs)

    @torch.inference_mode()
    def decode(self, latents: Tensor, on_tile: Callable[[float], None] | None = None) -> Tensor:
        batch, frames, hop = latents.shape[0], latents.shape[1], self.hop_length
        audio = torch.zeros(batch, 2, frames * hop, dtype=torch.float32, device=self.vae.device)
        for song, rows in enumerate(latents.to(self.vae.device, self.vae.dtype)):
            for tile in self._tiles(frames):
                decoded = self.vae.decode(rows[tile.first : tile.last].T[None])[0]
                wanted = decoded[:, (tile.start - tile.first) * hop : (tile.stop - tile.first) * hop]
                # An odd ratio in the decoder costs the end of a song a few samples, which stay silent.
                audio[song, :, tile.start * hop : tile.start * hop + wanted.shape[-1]] = wanted
                if on_tile is not None:
                    on_tile((song + tile.stop / frames) / batch)
        return audio

    def low_memory(self) -> OobleckCodec:
        smaller = min(self._tile_frames, max(_SMALLEST_TILE_FRAMES, self._tile_frames // 4))
        return OobleckCodec(self.vae, smaller, self._overlap)

    def _tiles(self, frames: int) -> Iterator[_Tile]:
        for start in range(0, frames, self._tile_frames):
            stop = min(start + self._tile_frames, frames)
            yield _Tile(start, stop, max(0, start - self._overlap), min(frames, stop + self._overlap))


def _recent_name(name: str) -> str:
    # As torch's newer weight norm stores it.
    for ours, theirs in (("weight_g", "original0"), ("weight_v", "original1")):
        name = name.replace(f".{ours}", f".parametrizations.weight.{theirs}")
    return name


def receptive_frames(downsampling_ratios: Sequence[int]) -> int:
    """Latent frames to each side that a sample depends on, in the encoder and the decoder."""
    samples = SEVEN_TAPS  # the encoder's first convolution and the decoder's last
    stride = 1
    for ratio in downsampling_ratios:
        samples += RESIDUAL_UNITS * stride
        samples += 2 * ratio * stride  # the resampling convolution has 2 * ratio taps
        stride *= ratio
    samples += SEVEN_TAPS * stride  # the decoder's first; the encoder's last has 3 taps only
    return math.ceil(samples / stride)
