"""The loudness of a song, as broadcasting measures it."""

from __future__ import annotations

import math
import warnings

import numpy as np
import soxr

from acestep.domain.analysis import Loudness
from acestep.domain.song import AudioClip

# ITU-R BS.1770-4, annex 2: the samples of four times the rate come within 0.6 dB of the sound between them.
_OVERSAMPLING = 4
_BLOCK = 10.0  # seconds that are oversampled at a time: all of a song would take gigabytes
_DECIMALS = 2


def measure_loudness(clip: AudioClip) -> Loudness:
    """Integrated loudness in LUFS (ITU-R BS.1770-4, gated) and true peak in dBTP.

    None for silence; the loudness also for less than 0.4 s.
    """
    return Loudness(_decibels(_integrated(clip)), _decibels(_true_peak(clip)))


def _integrated(clip: AudioClip) -> float:
    # Its filters come with SciPy's signal processing, which takes seconds to import.
    import pyloudnorm

    meter = pyloudnorm.Meter(clip.sample_rate)
    if clip.duration < meter.block_size:
        return -math.inf
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # silence has no logarithm
        return float(meter.integrated_loudness(clip.samples.T.astype(np.float64)))


def _true_peak(clip: AudioClip) -> float:
    # In dB of full scale; the sample peak counts as well, which the oversampled sound may miss.
    channels, samples = clip.samples.shape
    stream = soxr.ResampleStream(
        clip.sample_rate, _OVERSAMPLING * clip.sample_rate, channels, dtype="float32", quality="VHQ"
    )
    peak = float(np.abs(clip.samples).max(initial=0.0))
    block = round(_BLOCK * clip.sample_rate)
    for start in range(0, samples, block):
        piece = np.ascontiguousarray(clip.samples[:, start : start + block].T)
        heard = stream.resample_chunk(piece, last=start + block >= samples)
        peak = max(peak, float(np.abs(heard).max(initial=0.0)))
    return 20.0 * math.log10(peak) if peak > 0.0 else -math.inf


def _decibels(value: float) -> float | None:
    return round(value, _DECIMALS) if math.isfinite(value) else None
