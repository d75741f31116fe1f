from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.nano_scores import (
    Sound,
    chroma_similarity,
    edges,
    loudness_spread,
    metre,
    nearest_stem,
    percussive_share,
    si_sdr,
    timbre_distance,
)

RATE = 48_000


def seconds(length: float) -> np.ndarray:
    return np.arange(round(length * RATE)) / RATE


def scaled(wave: NDArray[np.floating], by: float) -> Sound:
    return np.asarray(by * wave, dtype=np.float32)


def tones(*hertz: float, length: float = 4.0, partials: int = 3) -> Sound:
    time = seconds(length)
    waves = [np.sin(2 * np.pi * f * k * time) / k for f in hertz for k in range(1, partials + 1)]
    return scaled(np.sum(waves, axis=0), 0.2)


def clicks(bpm: float, accents: str, length: float = 12.0) -> Sound:
    """Bursts of noise: each sign of `accents` is a third (x, o, .) of the loudness of a beat's part."""
    rng = np.random.default_rng(0)
    wave = np.zeros(round(length * RATE), dtype=np.float32)
    burst = (rng.standard_normal(2400) * np.exp(-np.arange(2400) / 300)).astype(np.float32)
    step = 60 / bpm
    for number in range(int(length / step)):
        loud = {"x": 0.5, "o": 0.2, ".": 0.0}[accents[number % len(accents)]]
        start = round(number * step * RATE)
        wave[start : start + 2400] += loud * burst[: len(wave) - start]
    return wave


class TestEdges:
    def song(self) -> Sound:
        fade = np.minimum(
            1.0, np.minimum(np.maximum(0.0, seconds(4.0) - 0.006) / 0.05, (4.0 - seconds(4.0)) / 1.2)
        )
        return scaled(tones(440, 550) * fade, 1.0)

    def test_a_song_that_begins_and_ends(self) -> None:
        found = edges(self.song())
        assert found.is_right

    def test_one_cut_at_its_end(self) -> None:
        found = edges(self.song()[: 2 * RATE])
        assert (found.begins_quiet, found.ends_quiet, found.falls) == (True, False, False)

    def test_one_cut_at_its_beginning(self) -> None:
        found = edges(self.song()[RATE:])
        assert (found.begins_quiet, found.ends_quiet) == (False, True)

    def test_one_with_a_click(self) -> None:
        song = self.song()
        song[600] += 0.5
        assert not edges(song).is_clean
        assert edges(song).begins_quiet

    def test_a_drum_on_the_first_beat_is_no_click(self) -> None:
        song = self.song()
        song[1920:1950] += 0.6
        assert edges(song).is_right

    def test_one_that_stops_short(self) -> None:
        song = tones(440) * np.float32(0.5)
        song[-2000:] = 0.0
        song[:2000] = 0.0
        found = edges(song)
        assert (found.begins_quiet, found.ends_quiet, found.falls) == (True, True, False)


def test_loudness_spread() -> None:
    one = tones(997, partials=1)
    assert loudness_spread([one, one]) == pytest.approx(0.0, abs=1e-6)
    # A tenth of the amplitude is 20 dB less; half is 6 dB less.
    assert loudness_spread([one, scaled(one, 0.5), scaled(one, 0.1)]) == pytest.approx(20.0, abs=0.1)


def test_percussive_share() -> None:
    assert percussive_share(tones(220, 330, length=2.0)) < 0.05
    assert percussive_share(clicks(120, "xo", 2.0)) > 0.8
    assert percussive_share(np.zeros(RATE, dtype=np.float32)) == 0.0


class TestChroma:
    def test_the_same_harmony_in_another_octave_and_timbre_is_the_same(self) -> None:
        low, high = tones(130.8, 164.8, 196.0), tones(523.3, 659.3, 784.0, partials=1)
        assert chroma_similarity(low, low) == pytest.approx(1.0, abs=1e-5)
        assert chroma_similarity(low, high) > 0.75

    def test_harmony_without_a_common_note_is_not(self) -> None:
        c_major, f_sharp_major = tones(130.8, 164.8, 196.0), tones(185.0, 233.1, 277.2)
        assert chroma_similarity(c_major, f_sharp_major) < 0.0

    def test_time_counts(self) -> None:
        c, g = tones(130.8, 164.8, 196.0, length=3.0), tones(196.0, 246.9, 293.7, length=3.0)
        there, back = np.concatenate([c, g]), np.concatenate([g, c])
        assert chroma_similarity(there, there) - chroma_similarity(there, back) > 0.5


class TestDistance:
    def test_si_sdr(self) -> None:
        rng = np.random.default_rng(1)
        target, noise = (rng.standard_normal(RATE).astype(np.float32) for _ in range(2))
        # A tenth of the power is 10 dB below; the scale does not count.
        assert si_sdr(3 * (target + np.sqrt(0.1) * noise), target) == pytest.approx(10.0, abs=0.2)
        assert si_sdr(noise, target) < -20
        assert si_sdr(target, target) > 60

    def test_the_nearest_stem(self) -> None:
        stems = {"flute": tones(880), "bass": tones(55), "drums": clicks(120, "x", 4.0)}
        mixed = 0.3 * stems["flute"] + stems["bass"] + 0.2 * stems["drums"]
        assert nearest_stem(mixed, stems) == "bass"

    def test_timbre_is_not_pitch_nor_loudness(self) -> None:
        dull, loud_dull, bright = (
            tones(220, partials=2),
            scaled(tones(247, partials=2), 2.0),
            tones(220, partials=20),
        )
        assert timbre_distance(dull, dull) == 0.0
        assert timbre_distance(dull, scaled(dull, 0.5)) < 0.01
        assert timbre_distance(dull, loud_dull) < 0.7 * timbre_distance(dull, bright)


@pytest.mark.parametrize(
    ("accents", "parts", "metre_is"),
    [("xoo", 1, "3"), ("xooo", 1, "4"), ("xo", 1, "4"), ("xoooxoooooooxooo", 2, "4"), ("xooooo", 3, "6")],
)
def test_metre(accents: str, parts: int, metre_is: str) -> None:
    assert metre(clicks(96 * parts, accents), 96) == metre_is
