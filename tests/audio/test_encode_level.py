from __future__ import annotations

import numpy as np
import pytest

from acestep.audio.encode import normalise_peak
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
