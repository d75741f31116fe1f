"""The level of a finished song. Knows nothing of files and models."""

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
    """`clip` with the largest magnitude over all channels at -1 dBFS; silence comes back as it is.

    Raises `AceStepError` if a sample is not a finite number: such a song cannot be heard.
    """
    peak = _peak(clip.samples)
    if peak < SILENCE:
        return clip
    return AudioClip((clip.samples * np.float32(PEAK / peak)).astype(np.float32), clip.sample_rate)


def limit_peak(clip: AudioClip, part: slice, beside: AudioClip) -> AudioClip:
    """`clip`, softer if `part` of its samples is louder than both -1 dBFS and all of `beside`.

    Raises `AceStepError` as `normalise_peak` does.
    """
    peak, most = _peak(clip.samples[:, part]), max(PEAK, _peak(beside.samples))
    if peak <= most:
        return clip
    return AudioClip((clip.samples * np.float32(most / peak)).astype(np.float32), clip.sample_rate)


def _peak(samples: NDArray[np.float32]) -> float:
    peak = float(np.max(np.abs(samples), initial=0.0))
    if not np.isfinite(peak):
        raise AceStepError("The model computed samples that are not numbers. Try again with another seed.")
    return peak
