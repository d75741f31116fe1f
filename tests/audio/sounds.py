"""Sounds and files for the tests of `acestep.audio`, all computed here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from acestep.domain.song import AudioClip

_DTYPES = {"u8": np.uint8, "s16": np.int16, "s32": np.int32, "flt": np.float32, "dbl": np.float64}


def music(samples: int, sample_rate: int = 48000) -> AudioClip:
    """A plucked chord on the left; on the right a sweep with clicks."""
    t = np.arange(samples) / sample_rate
    left = sum(0.15 * np.sin(2 * np.pi * hertz * t) for hertz in (220.0, 277.2, 329.6, 1760.0))
    left = left * np.exp(-3 * (t % 0.5))
    right = 0.3 * np.sin(2 * np.pi * (100 * t + 400 * t**2))
    right[:: sample_rate // 4] += 0.5
    return AudioClip(np.stack([left, right]).astype(np.float32), sample_rate)


def tones(hertz: tuple[float, ...], seconds: float, sample_rate: int) -> NDArray[np.float32]:
    """`[channels, samples]`: one sine for each channel."""
    t = np.arange(round(seconds * sample_rate)) / sample_rate
    return np.stack([0.4 * np.sin(2 * np.pi * f * t) for f in hertz]).astype(np.float32)


def loudest_tone(samples: NDArray[np.float32], sample_rate: int) -> float:
    """Hz."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum)) * sample_rate / len(samples)


@dataclass(frozen=True)
class File:
    """A file to make, in FFmpeg's names; `sample_format` is what the encoder is fed with."""

    name: str
    container: str
    codec: str
    sample_rate: int
    layout: str = "stereo"
    sample_format: str = "s16"


def encode(folder: Path, file: File, samples: NDArray[np.float32]) -> Path:
    """Write `samples` with FFmpeg alone, so that reading is tested against files that are not ours."""
    values = samples.T.reshape(1, -1).astype(np.float64)
    if file.sample_format == "u8":
        values = np.rint(values * 127 + 128)
    elif file.sample_format.startswith("s"):
        values = np.rint(values * (2.0 ** (int(file.sample_format[1:]) - 1) - 1))
    path = folder / file.name
    with av.open(str(path), "w", format=file.container) as container:
        stream = container.add_stream(file.codec, rate=file.sample_rate, options={"strict": "experimental"})
        stream.codec_context.layout = file.layout
        stream.codec_context.format = stream.codec_context.codec.audio_formats[0]
        if file.codec == "wmav2":
            stream.codec_context.bit_rate = 128_000  # it has no default that works
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(values.astype(_DTYPES[file.sample_format])),
            format=file.sample_format,
            layout=file.layout,
        )
        frame.sample_rate = file.sample_rate
        frame.pts = 0
        container.mux([*stream.encode(frame), *stream.encode(None)])
    return path
