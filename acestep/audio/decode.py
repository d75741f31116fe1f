"""Reads audio of any format: checks of uploads, and stereo samples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr
from numpy.typing import NDArray

from acestep.audio.encode import PEAK
from acestep.audio.reading import Reading, open_audio, unusable
from acestep.domain.song import MAX_DURATION, AudioClip

_MIN_SECONDS = 0.1  # nothing shorter is heard as a tune or a voice


@dataclass(frozen=True, slots=True)
class AudioLimits:
    max_seconds: float = MAX_DURATION
    max_channels: int = 8


@dataclass(frozen=True, slots=True)
class AudioFacts:
    """What a file holds. `seconds` may count an encoder's padding; `codec` is FFmpeg's name for it.

    `warnings` are sentences about what cannot be used as it is.
    """

    seconds: float
    sample_rate: int
    channels: int
    codec: str
    warnings: tuple[str, ...] = ()


def probe(path: Path, limits: AudioLimits) -> AudioFacts:
    """Check the file `path` by decoding it.

    Raises `UnusableAudioError` if there is no sound, more than half of it is lost, a lossless file ends
    before its header says, or it exceeds `limits`.
    """
    # The sound is not kept for the job that will `read` it: 600 s take 230 MB, and many jobs may wait.
    with open_audio(path) as reading:
        for _ in reading.blocks():
            reading.check_limit(limits.max_seconds)
            if reading.channels > limits.max_channels:
                most, remedy = limits.max_channels, "mono" if limits.max_channels == 1 else "stereo"
                raise unusable(path, f"it has {reading.channels} channels, more than {most}: send {remedy}")
        warnings = reading.check_whole()
        if reading.seconds < _MIN_SECONDS:
            least = f"send {_MIN_SECONDS:g} s or more"
            raise unusable(path, f"it lasts {reading.seconds:.5f} s, too short to work on: {least}")
        if _gain(reading) < 1.0:
            louder, softer = (20 * math.log10(level) for level in (reading.peak, 1 / _gain(reading)))
            warnings += (
                f"{path.name} is {louder:.1f} dB louder than full scale; it is used {softer:.1f} dB softer",
            )
        return AudioFacts(reading.seconds, reading.rate, reading.channels, reading.codec, warnings)


def read(path: Path, sample_rate: int | None = None, max_seconds: float | None = None) -> AudioClip:
    """The sound in the file `path`, in stereo at `sample_rate` Hz (None: the file's own).

    Mono is doubled, more channels are mixed down, and sound that exceeds -1..1 is made softer as a whole.
    Silence stands for what is lost in the middle. No more than `max_seconds` is decoded. Raises
    `UnusableAudioError` as `probe`, but for limits.
    """
    with open_audio(path) as reading:
        blocks: list[NDArray[np.float32]] = []
        for block in reading.blocks():
            blocks.append(block)
            if max_seconds is not None and reading.seconds >= max_seconds:
                break
        else:
            reading.check_whole()
        rate = reading.rate
        samples = np.concatenate(blocks)[: None if max_seconds is None else round(max_seconds * rate)]
        samples *= np.float32(_gain(reading))
    np.clip(samples, -1.0, 1.0, out=samples)
    if sample_rate not in (None, rate):
        samples = soxr.resample(samples, rate, sample_rate, quality="HQ")
    return AudioClip(np.ascontiguousarray(samples.T), sample_rate or rate)


def _gain(reading: Reading) -> float:
    # Beside damage a decoder may be as loud as it likes: that is clipped, and the rest keeps its level.
    return PEAK / reading.peak if reading.peak > 1.0 and not reading.is_damaged else 1.0
