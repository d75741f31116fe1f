import numpy as np
import pytest

from benchmarks.nano_codecs import candidates, mean, onset_score, spectral_distance


def test_onsets_count_within_25_milliseconds_and_once() -> None:
    wanted = np.array([1.0, 2.0, 3.0])
    assert onset_score(wanted, np.array([1.02, 2.02, 3.02])) == 1.0
    assert onset_score(wanted, np.array([1.03, 2.02, 3.02])) == pytest.approx(2 / 3)
    assert onset_score(np.array([1.0, 1.01]), np.array([1.0])) == pytest.approx(2 / 3)
    assert onset_score(wanted, np.array([])) == 0.0


def test_half_as_loud_is_6_decibels_away() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 24_000).astype(np.float32)
    assert spectral_distance(noise, noise) == 0.0
    half = (noise / 2).astype(np.float32)
    assert spectral_distance(noise, half) == pytest.approx(6.02, abs=0.05)


def test_what_cannot_be_told_is_left_out() -> None:
    assert mean([1.0, None, 0.0]) == 0.5


def test_each_candidate_can_be_compared() -> None:
    assert {codec.latent_channels for codec in candidates().values()} == {101, 130, 140, 142, 150}
