"""The level of a finished song."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from acestep.domain.song import AudioClip
from acestep.errors import AceStepError

# The published models are meant to be heard with their peak at -1 dBFS; below SILENCE there is nothing
# to raise but noise.
PEAK = 10 ** (-1 / 20)
SILENCE = 1e-6


def normalise_peak(clip: AudioClip) -> AudioClip:
    """`clip` with its peak at -1 dBFS; silence stays. Raises `AceStepError` if a sample is not finite."""
    peak = _peak(clip.samples)
    if peak < SILENCE:
        return clip
    return AudioClip((clip.samples * np.float32(PEAK / peak)).astype(np.float32), clip.sample_rate)


def limit_peak(clip: AudioClip, part: slice, beside: AudioClip) -> AudioClip:
    """`clip`, softer if `part` of it is louder than -1 dBFS and `beside`. Raises as `normalise_peak`."""
    peak, most = _peak(clip.samples[:, part]), max(PEAK, _peak(beside.samples))
    if peak <= most:
        return clip
    return AudioClip((clip.samples * np.float32(most / peak)).astype(np.float32), clip.sample_rate)


def _peak(samples: NDArray[np.float32]) -> float:
    peak = float(np.max(np.abs(samples), initial=0.0))
    if not np.isfinite(peak):
        raise AceStepError("The model computed samples that are not numbers. Try again with another seed.")
    return peak
