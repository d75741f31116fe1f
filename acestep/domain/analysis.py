"""What was found out about a finished song, as far as its request asks for it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TimedWord:
    text: str
    start: float  # seconds of the song
    end: float


@dataclass(frozen=True, slots=True)
class TimedLine:
    """A sung line, without section tags, from its first word to its last."""

    text: str
    start: float
    end: float
    words: tuple[TimedWord, ...]


@dataclass(frozen=True, slots=True)
class LyricTimes:
    lines: tuple[TimedLine, ...]
    score: float  # how well the song sings its lyrics, 0 to 1


@dataclass(frozen=True, slots=True)
class Loudness:
    integrated: float | None  # LUFS; None: the song is silent
    true_peak: float | None  # dBTP


@dataclass(frozen=True, slots=True)
class Stem:
    track: str
    file: str  # in the audio store, as long as the song


@dataclass(frozen=True, slots=True)
class Analysis:
    lyric_times: LyricTimes | None = None
    # Lowest and highest sample (-1..1, of all channels) of so many equal pieces.
    peaks: tuple[tuple[float, float], ...] = ()
    loudness: Loudness | None = None
    stems: tuple[Stem, ...] = ()
