"""The counts, against figures that were taken from the running networks."""

import pytest
import torch

from acestep.memory.configs import PLANNERS, VAE, published_dit
from benchmarks.floors import dit_flops, planner_bytes, vae_flops

TURBO = published_dit("acestep-v15-turbo", True)


def test_counts_of_a_song_of_ten_seconds() -> None:
    assert 8 * dit_flops(TURBO, 250) == pytest.approx(2_894e9, rel=0.05)
    assert vae_flops(VAE, 250) == pytest.approx(1_219e9, rel=0.02)
    assert planner_bytes(PLANNERS[0], torch.bfloat16) == 2 * PLANNERS[0].weights


def test_only_full_attention_is_quadratic() -> None:
    one, two, four = (dit_flops(TURBO, frames) for frames in (2_000, 4_000, 8_000))
    assert two > 2 * one and four > 2 * two
    narrow = [dit_flops(TURBO, frames) / frames for frames in (250, 500)]
    assert narrow[1] < 1.05 * narrow[0]
