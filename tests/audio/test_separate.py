from __future__ import annotations

import numpy as np
import pytest

from acestep.audio.separate import without
from acestep.domain.song import AudioClip


def tone(hertz: float, level: float, seconds: float = 1.0) -> AudioClip:
    time = np.arange(round(seconds * 8000)) / 8000
    return AudioClip(np.tile(level * np.sin(2 * np.pi * hertz * time), (2, 1)).astype(np.float32), 8000)


@pytest.mark.parametrize("level", [0.05, 0.2, 0.9])
def test_a_track_is_taken_away_at_the_level_that_it_has_in_the_song(level: float) -> None:
    voice, band = tone(440, 0.2), tone(100, 0.3)
    song = AudioClip(voice.samples + band.samples, 8000)
    left = without(song, tone(440, level))
    assert np.abs(left.samples - band.samples).max() < 1e-4


def test_what_is_not_in_a_song_takes_nothing_away() -> None:
    song = tone(100, 0.3)
    assert np.abs(without(song, tone(440, 0.9)).samples - song.samples).max() < 1e-4
    assert np.array_equal(without(song, tone(440, 0.0)).samples, song.samples)


def test_a_shorter_track_leaves_the_rest_of_the_song() -> None:
    song = tone(440, 0.2, 2.0)
    left = without(song, tone(440, 0.5, 1.0)).samples
    assert left.shape == song.samples.shape
    assert np.abs(left[:, :8000]).max() < 1e-4
    assert np.array_equal(left[:, 8000:], song.samples[:, 8000:])
