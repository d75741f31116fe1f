"""What formulas promise against what the real classes hold at published sizes, run on the meta device."""

from dataclasses import dataclass, replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from acestep.codec.oobleck import receptive_frames
from acestep.memory import estimate
from acestep.memory.configs import VAE
from acestep.memory.estimate import Workload
from acestep.memory.sizes import DitSize
from acestep.networks.transformer import Condition
from acestep.planner.backends.decoder import EVEN_ROWS
from acestep.synthesizer.conditioning import MAX_CAPTION_TOKENS, MAX_LYRIC_TOKENS
from tests.memory.classes import dit_modules, oobleck
from tests.memory.peaks import Peak, fused_attention
from tests.memory.test_sizes import TURBO, XL

WORDS = MAX_CAPTION_TOKENS + MAX_LYRIC_TOKENS + 1


@dataclass
class Padded:
    """A mask that says, without values to look at, that some songs have fewer words."""

    mask: Tensor

    def __getattr__(self, name: str) -> Any:
        return getattr(self.mask, name)

    def __invert__(self) -> Tensor:
        return ~self.mask

    def all(self) -> bool:
        return False


def meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")


@pytest.mark.parametrize(
    ("size", "load"),
    [
        (TURBO, Workload(1, 240, 2)),
        (TURBO, Workload(8, 600, 2)),
        (TURBO, Workload(1, 600, 2)),
        (XL, Workload(2, 480, 2)),
    ],
)
def test_rendering(monkeypatch: pytest.MonkeyPatch, size: DitSize, load: Workload) -> None:
    transformer = dit_modules(size).decoder.to(torch.bfloat16)
    songs, null = load.batch, None if size.is_turbo else meta(1, 1, size.encoder.width)
    with fused_attention(monkeypatch), torch.inference_mode(), Peak() as peak:
        condition = Condition(
            states=meta(songs, WORDS, size.encoder.width),
            mask=cast(Tensor, Padded(meta(songs, WORDS, dtype=torch.bool))),
            context=meta(songs, load.frames, size.in_channels - size.channels),
            null=null,
        )
        # Noise and latents, and what the step before and guidance remember.
        kept = [meta(songs, load.frames, size.channels, dtype=torch.float32) for _ in range(4)]
        transformer.velocity(kept[0], 0.5, transformer.cache(condition))
    assert peak.most <= estimate.rendering(size, load) <= 1.1 * peak.most


@pytest.mark.parametrize("tile", [512, 64])
def test_tiles(tile: int) -> None:
    vae, seen = oobleck(VAE).to(torch.bfloat16), 2 * receptive_frames(list(VAE.ratios))
    with torch.inference_mode(), Peak() as decoding:
        vae.decode(meta(1, VAE.latents, tile + seen))
    with torch.inference_mode(), Peak() as encoding:
        vae.encode(meta(1, 2, (tile + seen) * VAE.hop))
    load = Workload(1, 240, 2)
    whole_songs = 2 * 2 * load.frames * VAE.hop * 4
    promised = estimate.decoding(VAE, tile, load) - whole_songs
    assert max(decoding.most, encoding.most) <= promised <= 1.1 * max(decoding.most, encoding.most)


@pytest.mark.parametrize("tile", [160, 64])
def test_tiles_on_a_cpu(tile: int) -> None:
    size = replace(VAE, channels=8, decoder_channels=8)
    vae, frames = oobleck(size).to_empty(device="cpu"), tile + 2 * receptive_frames(size.ratios)
    for parameter in vae.requires_grad_(False).parameters():
        parameter.zero_()
    with torch.inference_mode(), Peak() as decoding:
        vae.decode(torch.zeros(1, size.latents, frames))
    with torch.inference_mode(), Peak() as encoding:
        vae.encode(torch.zeros(1, 2, frames * size.hop))
    load = Workload(1, 240, 4)
    promised = estimate.decoding(size, tile, load, by_pieces=True) - 2 * 2 * load.frames * size.hop * 4
    most = max(decoding.most, encoding.most)
    assert most <= promised <= 1.6 * most


@pytest.mark.parametrize("load", [Workload(1, 240, 2), Workload(8, 600, 2)])
def test_conditioning(monkeypatch: pytest.MonkeyPatch, load: Workload) -> None:
    modules = dit_modules(TURBO).to(torch.bfloat16)
    peaks = []
    with fused_attention(monkeypatch), torch.inference_mode():
        with Peak() as peak:
            modules.encoder.lyric_encoder(meta(1, MAX_LYRIC_TOKENS, TURBO.text_width))
        peaks.append(peak.most)
        codes = load.frames // TURBO.pool
        with Peak() as peak:
            modules.tokenizer(meta(1, codes * TURBO.pool, TURBO.channels))
        peaks.append(peak.most)
        with Peak() as peak:
            modules.detokenizer(meta(1, codes, TURBO.encoder.width))
        peaks.append(peak.most)
    assert max(peaks) <= estimate.conditioning(TURBO, load) <= 1.25 * max(peaks)


def test_what_is_known_of_other_rooms_is_still_so() -> None:
    assert (estimate._CAPTION, estimate._LYRICS) == (MAX_CAPTION_TOKENS, MAX_LYRIC_TOKENS)
    assert receptive_frames(list(VAE.ratios)) == estimate._SEEN
    assert estimate._LEAST_ROWS == EVEN_ROWS
