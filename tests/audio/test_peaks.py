from itertools import pairwise

import numpy as np
import pytest

from acestep.audio.peaks import waveform_peaks
from acestep.domain.song import AudioClip


def clip(*channels: list[float]) -> AudioClip:
    return AudioClip(np.array(channels, np.float32), 8000)


def test_each_point_is_the_lowest_and_the_highest_of_its_piece():
    song = clip([0.1, 0.5, -0.2, 0.0, 0.3, 0.25], [0.0, 0.0, 0.0, -0.75, 0.0, 0.9])
    assert waveform_peaks(song, 3) == ((0.0, 0.5), (-0.75, 0.0), (0.0, 0.9))


@pytest.mark.parametrize("samples", [7, 1000, 1001, 4803])
def test_the_pieces_are_equal_and_hold_every_sample(samples):
    wave = np.random.default_rng(samples).uniform(-1, 1, (2, samples)).astype(np.float32)
    points = waveform_peaks(AudioClip(wave, 8000), 7)
    edges = [samples * number // 7 for number in range(8)]
    pieces = [wave[:, start:end] for start, end in pairwise(edges)]
    assert max(map(np.size, pieces)) - min(map(np.size, pieces)) <= 2  # a sample of both channels
    np.testing.assert_allclose(points, [(piece.min(), piece.max()) for piece in pieces], atol=5.1e-4)


def test_numbers_are_short():
    (point,) = waveform_peaks(clip([0.123456, -0.98765]), 1)
    assert repr(point) == "(-0.988, 0.123)"


def test_no_more_points_than_samples():
    assert waveform_peaks(clip([0.5, -0.5]), 800) == ((0.5, 0.5), (-0.5, -0.5))
    assert waveform_peaks(AudioClip(np.zeros((2, 0), np.float32), 8000), 800) == ()
