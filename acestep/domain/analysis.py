"""The nouns of what is found out about a finished song, as far as its request asks for it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TimedWord:
    """A sung word; `start` and `end` in seconds from the song's beginning."""

    text: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class TimedLine:
    """A sung line of the lyrics, without section tags; it lasts from its first word to its last."""

    text: str
    start: float
    end: float
    words: tuple[TimedWord, ...]


@dataclass(frozen=True, slots=True)
class LyricTimes:
    """When each line is sung, and how well the song sings its lyrics: `score`, 0 to 1."""

    lines: tuple[TimedLine, ...]
    score: float


@dataclass(frozen=True, slots=True)
class Loudness:
    """How loud a song is: integrated loudness in LUFS, true peak in dBTP; None: it is silent."""

    integrated: float | None
    true_peak: float | None


@dataclass(frozen=True, slots=True)
class Stem:
    """A track of a song on its own: a file in the audio store, as long as the song."""

    track: str
    file: str


@dataclass(frozen=True, slots=True)
class Analysis:
    """What was found out about a finished song, as far as its `Extras` ask for it.

    `peaks` are the lowest and the highest sample (-1..1, of all channels) of as many equal pieces of it.
    """

    lyric_times: LyricTimes | None = None
    peaks: tuple[tuple[float, float], ...] = ()
    loudness: Loudness | None = None
    stems: tuple[Stem, ...] = ()
