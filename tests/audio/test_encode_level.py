from __future__ import annotations

import numpy as np
import pytest

from acestep.audio.encode import PEAK, fade, limit_peak, normalise_peak
from acestep.domain.song import AudioClip
from acestep.errors import AceStepError
from tests.audio.sounds import music


@pytest.mark.parametrize("factor", [0.001, 1.0, 40.0])
def test_the_peak_is_at_minus_one_decibel_and_nothing_else_changes(factor: float) -> None:
    clip = AudioClip(music(48000).samples * np.float32(factor), 48000)

    normal = normalise_peak(clip)

    assert np.abs(normal.samples).max() == pytest.approx(10 ** (-1 / 20), abs=1e-6)
    gain = np.abs(normal.samples).max() / np.abs(clip.samples).max()
    assert np.allclose(normal.samples, clip.samples * gain, rtol=1e-5)
    assert normal.samples.dtype == np.float32
    assert normal.sample_rate == 48000


def test_both_channels_get_the_same_gain() -> None:
    clip = AudioClip(np.array([[0.1, 0.0], [0.0, -0.2]], np.float32), 48000)
    assert np.allclose(normalise_peak(clip).samples, [[0.5 * 0.8912509, 0], [0, -0.8912509]])


@pytest.mark.parametrize(("peak", "is_raised"), [(0.0, False), (0.9e-6, False), (1.1e-6, True)])
def test_silence_is_left_alone(peak: float, is_raised: bool) -> None:
    clip = AudioClip(np.full((2, 100), peak, np.float32), 48000)
    assert (np.abs(normalise_peak(clip).samples).max() > 0.8) == is_raised


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_samples_that_are_no_numbers_are_refused(broken: float) -> None:
    samples = music(48000).samples
    samples[1, 17] = broken
    with pytest.raises(AceStepError, match="not numbers"):
        normalise_peak(AudioClip(samples, 48000))


def test_what_is_too_loud_is_softened_there_alone() -> None:
    samples = np.full((2, 48000), 0.5, np.float32)
    samples[:, 20000] = 1.78, -0.2
    limited = limit_peak(AudioClip(samples, 48000)).samples

    assert limited[0, 20000] == pytest.approx(10 ** (-1 / 20), abs=1e-6)
    assert limited[1, 20000] == pytest.approx(-0.1, abs=1e-3)  # the channels stay in balance
    far = np.abs(np.arange(48000) - 20000) > 2 * 0.05 * 48000
    np.testing.assert_array_equal(limited[:, far], samples[:, far])
    steps = np.diff(limited[0, 10000:30000] / samples[0, 10000:30000])
    assert np.abs(steps).max() <= 0.5 / (0.05 * 48000) + 1e-6  # no step that clicks


@pytest.mark.parametrize("length", [1, 7, 2400, 2401, 48000])
@pytest.mark.parametrize("loudness", [0.1, 1.0, 40.0])
def test_nothing_stays_above_minus_one_decibel(length: int, loudness: float) -> None:
    noise = np.random.default_rng(length).standard_normal((2, length)).astype(np.float32)
    clip = AudioClip(loudness * noise, 48000)
    limited = limit_peak(clip).samples
    assert np.abs(limited).max() <= np.float32(10 ** (-1 / 20))
    assert np.array_equal(limited, clip.samples) == (np.abs(clip.samples).max() <= 10 ** (-1 / 20))


def test_a_window_of_no_numbers_is_refused() -> None:
    with pytest.raises(AceStepError, match="not numbers"):
        limit_peak(AudioClip(np.full((2, 10), np.nan, np.float32), 48000))


@pytest.mark.parametrize("peak_db", [-14.0, -1.0, 0.0])
def test_the_peak_may_be_at_another_level(peak_db: float) -> None:
    normal = normalise_peak(music(48000), peak_db)
    assert np.abs(normal.samples).max() == pytest.approx(10 ** (peak_db / 20), abs=1e-6)


def test_without_a_level_a_clip_stays_as_it_is_where_it_is_not_too_loud() -> None:
    quiet = AudioClip(np.array([[0.1, -0.3], [0.0, 0.2]], np.float32), 48000)
    assert np.array_equal(normalise_peak(quiet, None).samples, quiet.samples)
    loud = AudioClip(music(48000).samples * np.float32(40), 48000)
    assert np.abs(normalise_peak(loud, None).samples).max() <= PEAK


def test_fades_follow_a_cosine_from_and_to_silence() -> None:
    faded = fade(AudioClip(np.ones((2, 1000), np.float32), 100), 2.0, 4.0).samples
    # A fade of 2 s ends after 200 samples; half of it is at half the level, a quarter at 0.5 - cos(45°) / 2.
    assert faded[:, [0, 50, 100, 200, 400, 599]] == pytest.approx(
        np.tile([0.0, 0.1464466, 0.5, 1.0, 1.0, 1.0], (2, 1)), abs=1e-6
    )
    assert faded[:, [-1, -101, -201, -401]] == pytest.approx(
        np.tile([0.0, 0.1464466, 0.5, 1.0], (2, 1)), abs=1e-6
    )


def test_fades_longer_than_the_clip_end_with_it() -> None:
    clip = AudioClip(np.ones((1, 100), np.float32), 100)
    faded = fade(clip, 60.0, 60.0)
    assert faded.samples.shape == (1, 100) and faded.samples.max() <= 1.0
    assert np.array_equal(fade(clip, 0.0, 0.0).samples, clip.samples)
