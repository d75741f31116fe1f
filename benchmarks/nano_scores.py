"""What is measured of nano's songs beside tempo and key: edges, loudness, drums, metre, and what tasks keep.

All take sound as `[2, samples]` or `[samples]` at 48 kHz.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import soxr
from librosa.effects import hpss
from librosa.feature import chroma_cqt, melspectrogram
from librosa.onset import onset_strength
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from training.nano.sound.mixing import SAMPLE_RATE, loudness

Sound = NDArray[np.float32]

_RATE = 24_000
_EDGE = 0.005  # seconds
_CLICK = 0.03  # seconds; songs strike their first note after 40 ms
_QUIET = 0.02  # amplitude
_STEP = 0.15  # of one sample to the next, at the edges; above, it clicks
_FALL = 0.5  # the last quarter of the last second against its first
_CHROMA_HOP = 0.5  # seconds
_MEL_BANDS = 64
_ONSET_HOP = 256
_BLUR = 3.0  # frames: beats fall between frames
_PART = 0.2  # of the likeness of beats that parts of a beat must have, to be parts


@dataclass(frozen=True, slots=True)
class Edges:
    """Whether a song begins and ends as a song does."""

    begins_quiet: bool
    ends_quiet: bool
    falls: bool
    is_clean: bool

    @property
    def is_right(self) -> bool:
        return self.begins_quiet and self.ends_quiet and self.falls and self.is_clean


def edges(sound: Sound) -> Edges:
    """First and last 5 ms under 0.02, a last second that falls, no click in the first and last 30 ms."""
    edge, second, click = round(_EDGE * SAMPLE_RATE), SAMPLE_RATE, round(_CLICK * SAMPLE_RATE)
    mono = _mono(sound)
    quarters = np.sqrt((mono[-second:] ** 2).reshape(4, -1).mean(axis=1))
    ends = np.concatenate([mono[:click], mono[-click:]])
    jumps = max(np.abs(np.diff(mono[:click])).max(), np.abs(np.diff(mono[-click:])).max(), abs(ends[0]))
    return Edges(
        begins_quiet=bool(np.abs(mono[:edge]).max() < _QUIET),
        ends_quiet=bool(np.abs(mono[-edge:]).max() < _QUIET),
        falls=bool(quarters[3] <= _FALL * quarters[0] + 1e-4),
        is_clean=bool(jumps < _STEP),
    )


def loudness_spread(sounds: Sequence[Sound]) -> float:
    """LU between the loudest song and the quietest."""
    measured = [loudness(sound, SAMPLE_RATE) for sound in sounds]
    return max(measured) - min(measured)


def percussive_share(sound: Sound) -> float:
    """How much of the energy is hits rather than tones, 0 to 1."""
    mono = soxr.resample(_mono(sound), SAMPLE_RATE, _RATE)
    tones, hits = hpss(mono, margin=1.0)
    energy = float((tones**2).sum() + (hits**2).sum())
    return float((hits**2).sum()) / energy if energy else 0.0


def chroma_similarity(one: Sound, other: Sound) -> float:
    """How alike the harmony of two songs runs, -1 to 1: mean correlation of their chroma each half second."""
    first, second = _chroma(one), _chroma(other)
    frames = min(first.shape[1], second.shape[1])
    first, second = first[:, :frames], second[:, :frames]
    norms = np.linalg.norm(first, axis=0) * np.linalg.norm(second, axis=0)
    counted = norms > 1e-6
    if not counted.any():
        return 0.0
    return float(((first * second).sum(axis=0)[counted] / norms[counted]).mean())


def si_sdr(estimate: Sound, target: Sound) -> float:
    """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al., 2019)."""
    estimated, wanted = _mono(estimate).astype(np.float64), _mono(target).astype(np.float64)
    length = min(len(estimated), len(wanted))
    estimated, wanted = (
        estimated[:length] - estimated[:length].mean(),
        wanted[:length] - wanted[:length].mean(),
    )
    scale = (estimated @ wanted) / max(wanted @ wanted, 1e-12)
    error = estimated - scale * wanted
    return float(10 * np.log10(max((scale * wanted) @ (scale * wanted), 1e-12) / max(error @ error, 1e-12)))


def timbre(sound: Sound) -> NDArray[np.float32]:
    """A profile of the timbre: mean and deviation of the log-mel spectrum, whatever its loudness."""
    mono = soxr.resample(_mono(sound), SAMPLE_RATE, _RATE)
    mel = melspectrogram(y=mono, sr=_RATE, n_fft=2048, hop_length=512, n_mels=_MEL_BANDS)
    power = mel.sum(axis=0)
    heard = mel[:, power > 1e-4 * power.max()] if power.max() > 0 else mel
    decibels = 10 * np.log10(np.maximum(heard, 1e-8 * max(float(heard.max(initial=0.0)), 1e-12)))
    decibels -= decibels.mean(axis=0, keepdims=True)
    profile: NDArray[np.float32] = np.concatenate([decibels.mean(axis=1), decibels.std(axis=1)])
    return profile


def timbre_distance(one: Sound, other: Sound) -> float:
    """Mean difference of two profiles in dB."""
    return float(np.abs(timbre(one) - timbre(other)).mean())


def nearest_stem(sound: Sound, stems: Mapping[str, Sound]) -> str:
    """The stem that a sound is most like, by SI-SDR."""
    return max(stems, key=lambda name: si_sdr(sound, stems[name]))


def metre(sound: Sound, bpm: float) -> str:
    """ "3" or "4" beats a bar, or "6": beats of three parts; by how onsets come again after so many of them.

    Two beats and four cannot be told apart so: both are "4".
    """
    mono = soxr.resample(_mono(sound), SAMPLE_RATE, _RATE)
    # Amplitudes, not decibels, in which the first beat of a bar is hardly louder.
    mel = melspectrogram(y=mono, sr=_RATE, hop_length=_ONSET_HOP, power=1.0)
    envelope = onset_strength(S=mel, sr=_RATE, hop_length=_ONSET_HOP)
    envelope = gaussian_filter1d(envelope, _BLUR)
    envelope = envelope - envelope.mean()
    beat = 60.0 / bpm * _RATE / _ONSET_HOP

    def again(beats: float) -> float:
        lag = beats * beat
        whole = round(lag)
        near = range(max(1, whole - 1), whole + 2)
        return max(
            float((envelope[:-shift] * envelope[shift:]).sum()) / (len(envelope) - shift) for shift in near
        )

    thirds, halves = again(1 / 3) + again(2 / 3), again(1 / 4) + again(1 / 2)
    if thirds > halves and again(1 / 3) > _PART * again(1):
        return "6"
    return "3" if again(3) > max(again(2), again(4)) else "4"


def _chroma(sound: Sound) -> NDArray[np.float32]:
    mono = soxr.resample(_mono(sound), SAMPLE_RATE, _RATE)
    fine = chroma_cqt(y=mono, sr=_RATE, hop_length=1024, norm=None, tuning=0.0)  # what is compared is in tune
    per = max(1, round(_CHROMA_HOP * _RATE / 1024))
    frames = fine.shape[1] // per
    coarse = fine[:, : frames * per].reshape(12, frames, per).mean(axis=2)
    centred: NDArray[np.float32] = coarse - coarse.mean(axis=0, keepdims=True)
    return centred


def _mono(sound: Sound) -> Sound:
    return sound.mean(axis=0) if sound.ndim == 2 else sound
