"""Stems to a mix of a known loudness: levels, a limiter that all stems share, and a quiet end."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import pyloudnorm
from numpy.typing import NDArray
from scipy.ndimage import minimum_filter1d, uniform_filter1d

from training.nano.music.piece import Stem

Audio = NDArray[np.float32]  # [2, samples]

SAMPLE_RATE = 48_000
LOUDNESS = -18.0  # LUFS of a mix; louder, drums alone would be limited by more than 6 dB
CEILING = 10 ** (-1.2 / 20)  # highest sample
_COARSE = 3  # every third sample tells a stem's loudness as well, in a third of the time
_TOLERANCE = 0.2  # LU
_TRIES = 4
_ATTACK = 0.004  # seconds on either side of a peak over which the gain falls
_FADE = 1.0  # seconds at the end of a piece, while the last chord rings
_STILL = 0.02  # seconds of silence at the end
_FAINTEST = -70.0  # LUFS, the gate of the measure


def loudness(audio: Audio, sample_rate: int) -> float:
    """Integrated loudness in LUFS (ITU-R BS.1770-4); -70 for silence."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # silence has no logarithm
        measured = pyloudnorm.Meter(sample_rate).integrated_loudness(audio.T.astype(np.float64))
    return max(_FAINTEST, float(measured)) if math.isfinite(measured) else _FAINTEST


def mix(stems: Sequence[tuple[Stem, Audio]], sample_rate: int, *, ends: bool = True) -> dict[str, Audio]:
    """The stems, each at its level, so that their sum has the loudness of all pieces.

    Where the piece ends, its last second fades to silence.
    """
    levelled: dict[str, Audio] = {}
    for stem, audio in stems:
        measured = loudness(audio[:, ::_COARSE], sample_rate // _COARSE)
        gain = 0.0 if measured <= _FAINTEST else LOUDNESS + stem.level - measured
        levelled[stem.name] = audio * np.float32(10 ** (gain / 20))
    if ends:
        fade = _fade(next(iter(levelled.values())).shape[1], sample_rate)
        levelled = {name: audio * fade for name, audio in levelled.items()}
    return _limited(levelled, sample_rate)


def total(stems: Mapping[str, Audio]) -> Audio:
    """The sum of stems."""
    added: Audio = np.sum(list(stems.values()), axis=0, dtype=np.float32)
    return added


def _limited(stems: dict[str, Audio], sample_rate: int) -> dict[str, Audio]:
    whole = total(stems)
    gain = LOUDNESS - loudness(whole, sample_rate)
    envelope = np.ones(whole.shape[1], dtype=np.float32)
    for _ in range(_TRIES):
        envelope = np.float32(10 ** (gain / 20)) * _envelope(whole * 10 ** (gain / 20), sample_rate)
        missing = LOUDNESS - loudness(whole * envelope, sample_rate)
        if abs(missing) < _TOLERANCE:
            break
        gain += missing
    return {name: audio * envelope for name, audio in stems.items()}


def _envelope(audio: Audio, sample_rate: int) -> Audio:
    """The gain of each sample that keeps every peak below the ceiling."""
    peak = np.abs(audio).max(axis=0)
    if peak.max(initial=0.0) <= CEILING:
        return np.ones_like(peak)
    wanted = np.minimum(1.0, CEILING / np.maximum(peak, 1e-9))
    width = 2 * round(_ATTACK * sample_rate) + 1
    lowest = minimum_filter1d(wanted, width, mode="nearest")
    smooth: Audio = uniform_filter1d(lowest, width, mode="nearest").astype(np.float32)
    envelope: Audio = np.minimum(smooth, wanted).astype(np.float32)
    return envelope


def _fade(samples: int, sample_rate: int) -> Audio:
    length, still = round(_FADE * sample_rate), round(_STILL * sample_rate)
    fade = np.ones(samples, dtype=np.float32)
    ramp = 0.5 + 0.5 * np.cos(np.pi * np.arange(length - still) / (length - still))
    fade[samples - length : samples - still] = ramp
    fade[samples - still :] = 0.0
    return fade
