from __future__ import annotations

import numpy as np
import pytest

from training.nano.music.piece import Stem
from training.nano.sound.mixing import CEILING, LOUDNESS, SAMPLE_RATE, loudness, mix, total

SECONDS = 6
TIME = np.arange(SECONDS * SAMPLE_RATE) / SAMPLE_RATE


def tone(hertz: float, level: float) -> np.ndarray:
    wave = level * np.sin(2 * np.pi * hertz * TIME)
    return np.stack([wave, wave]).astype(np.float32)


def clicks(level: float) -> np.ndarray:
    wave = np.zeros_like(TIME)
    wave[:: SAMPLE_RATE // 2] = level
    wave = np.convolve(wave, np.exp(-np.arange(400) / 60))[: len(TIME)]
    return np.stack([wave, wave]).astype(np.float32)


def stem(name: str, level: float = 0.0) -> Stem:
    return Stem(name, 0, ("lead",), 0.0, level)


def test_loudness_is_that_of_the_standard() -> None:
    # A sine of 997 Hz in both channels at full scale: 0 LUFS (ITU-R BS.1770-4: -3.01 in one).
    assert loudness(tone(997, 1.0), SAMPLE_RATE) == pytest.approx(0.0, abs=0.1)
    assert loudness(np.zeros_like(tone(1, 1)), SAMPLE_RATE) == -70.0


@pytest.mark.parametrize("level", [0.001, 0.05, 0.9])
def test_every_mix_is_as_loud(level: float) -> None:
    stems = mix(
        [(stem("flute"), tone(440, level)), (stem("harp", -5), tone(660, 0.3))], SAMPLE_RATE, ends=False
    )
    assert loudness(total(stems), SAMPLE_RATE) == pytest.approx(LOUDNESS, abs=0.2)


def test_stems_keep_their_distance() -> None:
    stems = mix(
        [(stem("flute"), tone(440, 0.9)), (stem("harp", -5.0), tone(660, 0.01))], SAMPLE_RATE, ends=False
    )
    quieter = loudness(stems["flute"], SAMPLE_RATE) - loudness(stems["harp"], SAMPLE_RATE)
    assert quieter == pytest.approx(5.0, abs=0.3)


def test_peaks_are_held_by_one_gain_for_all_stems() -> None:
    stems = mix(
        [(stem("drums"), clicks(1.0)), (stem("flute", -6.0), tone(440, 0.2))], SAMPLE_RATE, ends=False
    )
    whole = total(stems)
    assert np.abs(whole).max() <= CEILING + 1e-6
    assert 20 * np.log10(CEILING) == pytest.approx(-1.2)
    # Where the click is, the flute is turned down with it.
    flute = np.abs(stems["flute"][0])
    quiet = (
        flute[SAMPLE_RATE : SAMPLE_RATE + 200].max() / flute[SAMPLE_RATE + 9000 : SAMPLE_RATE + 9200].max()
    )
    assert quiet < 0.9


def test_a_piece_that_ends_falls_silent_and_a_cut_does_not() -> None:
    ended = total(mix([(stem("flute"), tone(440, 0.5))], SAMPLE_RATE))
    assert np.abs(ended[:, -240:]).max() == 0.0
    seconds = np.abs(ended[0, -SAMPLE_RATE:]).reshape(4, -1).max(axis=1)
    assert list(seconds) == sorted(seconds, reverse=True)
    assert np.abs(np.diff(ended[0])).max() < 0.1  # no click
    cut = total(mix([(stem("flute"), tone(440, 0.5))], SAMPLE_RATE, ends=False))
    assert np.abs(cut[:, -240:]).max() > 0.1
