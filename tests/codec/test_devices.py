"""Codecs on a pretended GPU: results are the CPU's, and on the right device."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from acestep.codec.oobleck import OobleckCodec
from acestep.codec.sine_bank import SineBankCodec, SineBankConfig
from acestep.codec.tone_noise import ToneNoiseCodec, ToneNoiseConfig
from tests.codec.test_oobleck import CHANNELS, CPU, write_vae
from tests.pretended_gpu import pretended

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")

SECOND = torch.device("cuda:1")


def test_oobleck_in_tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_vae(tmp_path)
    codec = OobleckCodec.load(tmp_path, CPU, torch.float32, tile_frames=16)
    chance = torch.Generator().manual_seed(1)
    latents = torch.randn(2, 40, CHANNELS, generator=chance)
    audio = torch.randn(1, 2, 40 * codec.hop_length, generator=chance)
    sound, mean = codec.decode(latents), codec.encode(audio)
    with pretended(monkeypatch) as gpu:
        codec.vae.to(SECOND)
        decoded = codec.decode(latents.to(SECOND))
        assert decoded.device == SECOND
        torch.testing.assert_close(decoded.cpu(), sound, rtol=1e-4, atol=1e-5)  # a CPU computes in pieces
        before = len(gpu.waits)
        again = codec.encode(audio)  # audio is read on the CPU
        assert [wait.what for wait in gpu.waits[before:]] == ["cpu to cuda"]
        assert again.device == SECOND
        torch.testing.assert_close(again.cpu(), mean, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "build", [partial(SineBankCodec, SineBankConfig()), partial(ToneNoiseCodec, ToneNoiseConfig())]
)
def test_codecs_without_weights(
    monkeypatch: pytest.MonkeyPatch, build: Callable[..., SineBankCodec | ToneNoiseCodec]
) -> None:
    reference = build()
    chance = torch.Generator().manual_seed(1)
    audio = 0.1 * torch.randn(1, 2, 30 * reference.hop_length, generator=chance)
    latents = reference.encode(audio)
    sound = reference.decode(latents)
    with pretended(monkeypatch):
        codec = build(SECOND)
        again = codec.encode(audio)
        assert again.device == SECOND and torch.equal(again.cpu(), latents)
        decoded = codec.decode(again.bfloat16())
        assert decoded.device == SECOND and decoded.dtype == torch.float32
        torch.testing.assert_close(decoded.cpu(), sound, atol=0.02, rtol=0)
