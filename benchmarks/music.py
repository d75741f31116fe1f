"""What a listener would measure of a song: its tempo and its key.

Tempo comes from librosa's beat tracker, key from Krumhansl's key profiles on chroma (C. L. Krumhansl,
"Cognitive Foundations of Musical Pitch", 1990).
"""

from __future__ import annotations

import numpy as np
import soxr
from librosa.beat import beat_track
from librosa.feature import chroma_cqt
from numpy.typing import NDArray

from acestep.domain.song import AudioClip
from training.nano.theory import PITCH_CLASSES, Key

TEMPO_TOLERANCE = 0.04
_OCTAVES = (0.5, 1.0, 2.0)
_RATE = 22_050
_PROFILES = {
    "major": (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88),
    "minor": (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17),
}


def tempo(clip: AudioClip) -> float:
    """Beats a minute: the slope of the tracked beats, finer than the tracker's own estimate."""
    estimate, beats = beat_track(y=_mono(clip), sr=_RATE, units="time")
    if len(beats) < 4:
        return float(np.atleast_1d(estimate)[0])
    steps = np.diff(beats)
    usual = steps[np.abs(steps / np.median(steps) - 1) < 0.15]
    return float(60.0 / usual.mean())


def is_tempo(measured: float, bpm: float) -> bool:
    """Whether a measured tempo is `bpm`, its half or its double, within 4 %."""
    return any(abs(measured / (bpm * octave) - 1) <= TEMPO_TOLERANCE for octave in _OCTAVES)


def key(clip: AudioClip) -> str:
    """The key whose profile fits the chroma best, as "F# minor"."""
    chroma = chroma_cqt(y=_mono(clip), sr=_RATE).mean(axis=1)
    fits = {
        f"{tonic} {mode}": float(np.corrcoef(np.roll(profile, step), chroma)[0, 1])
        for mode, profile in _PROFILES.items()
        for step, tonic in enumerate(PITCH_CLASSES)
    }
    return max(fits, key=lambda name: fits[name])


def is_key(measured: str, wanted: str) -> bool:
    """Whether two keys are the same or relative (C major and A minor), whatever their spelling."""
    return _signature(measured) == _signature(wanted)


def _signature(name: str) -> int:
    found = Key.parse(name)
    return (found.tonic + 3) % 12 if found.mode == "minor" else found.tonic


def _mono(clip: AudioClip) -> NDArray[np.float32]:
    mono: NDArray[np.float32] = soxr.resample(clip.samples.mean(axis=0), clip.sample_rate, _RATE)
    return mono
