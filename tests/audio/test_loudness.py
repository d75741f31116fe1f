import numpy as np
import pytest

from acestep.audio.loudness import measure_loudness
from acestep.domain.song import AudioClip

RATE = 48000


def sine(frequency: float, amplitude: float, seconds: float = 3.0, phase: float = 0.0) -> AudioClip:
    time = np.arange(round(seconds * RATE)) / RATE
    wave = amplitude * np.sin(2 * np.pi * frequency * time + phase)
    return AudioClip(np.stack([wave, wave]).astype(np.float32), RATE)


def test_the_reference_tone():
    """EBU Tech 3341, case 1: a stereo sine of 1 kHz at -23 dBFS in both channels has -23 LUFS."""
    found = measure_loudness(sine(1000.0, 10 ** (-23 / 20), seconds=20.0))
    assert found.integrated == pytest.approx(-23.0, abs=0.1)
    assert found.true_peak == pytest.approx(-23.0, abs=0.05)


def test_pauses_are_gated_out():
    """EBU Tech 3341, case 3: what is 10 dB and more below the rest does not count."""
    loud, soft = sine(1000.0, 10 ** (-23 / 20), 60.0), sine(1000.0, 10 ** (-36 / 20), 10.0)
    whole = AudioClip(np.concatenate([soft.samples, loud.samples, soft.samples], axis=1), RATE)
    assert measure_loudness(whole).integrated == pytest.approx(-23.0, abs=0.1)


def test_the_peak_between_the_samples_is_found():
    """A quarter of the rate, sampled at 45 degrees: no sample is higher than -3 dB of the sound itself."""
    found = measure_loudness(sine(RATE / 4, 0.5, phase=np.pi / 4))
    assert np.abs(sine(RATE / 4, 0.5, phase=np.pi / 4).samples).max() == pytest.approx(0.5 / np.sqrt(2))
    assert found.true_peak is not None
    assert found.true_peak == pytest.approx(-6.02, abs=0.25)


def test_blocks_make_no_difference():
    """A single click behind the first block is heard, and no seam is."""
    steady = sine(997.0, 0.25, seconds=21.0)
    assert measure_loudness(steady).true_peak == pytest.approx(20 * np.log10(0.25), abs=0.05)
    steady.samples[:, 15 * RATE] = 0.9
    assert measure_loudness(steady).true_peak == pytest.approx(20 * np.log10(0.9), abs=0.5)


def test_silence_has_no_level():
    silence = measure_loudness(AudioClip(np.zeros((2, RATE), np.float32), RATE))
    assert (silence.integrated, silence.true_peak) == (None, None)


def test_what_is_too_short_for_a_loudness_still_has_a_peak():
    found = measure_loudness(sine(1000.0, 0.5, seconds=0.2))
    assert found.integrated is None
    assert found.true_peak == pytest.approx(-6.02, abs=0.3)
