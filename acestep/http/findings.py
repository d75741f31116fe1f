"""What was found out about a song, as clients read it.

Owns these parts of a result item, and the LRC format. Knows nothing of how anything was found out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from acestep.findings import Findings, TimedLine
from acestep.http.answers import LineItem, LoudnessItem, WordItem


def found_fields(found: Findings) -> dict[str, Any]:
    """The fields of a result item that say what was found out; each is empty where nobody asked."""
    times = found.lyric_times
    lines = times.lines if times else ()
    return {
        "lrc": lrc(lines),
        "alignment_score": times.score if times else None,
        "lyric_timestamps": [_line(line) for line in lines],
        "waveform_peaks": [list(point) for point in found.peaks],
        "loudness": _loudness(found),
    }


def lrc(lines: Sequence[TimedLine]) -> str:
    """Lyrics in the LRC format: a line each, behind the minutes, seconds and hundredths when it begins."""
    return "".join(f"[{_clock(line.start)}]{line.text}\n" for line in lines)


def _clock(seconds: float) -> str:
    hundredths = round(seconds * 100)
    return f"{hundredths // 6000:02}:{hundredths // 100 % 60:02}.{hundredths % 100:02}"


def _line(line: TimedLine) -> LineItem:
    words = [WordItem(text=word.text, start=word.start, end=word.end) for word in line.words]
    return LineItem(text=line.text, start=line.start, end=line.end, words=words)


def _loudness(found: Findings) -> LoudnessItem | None:
    if found.loudness is None:
        return None
    return LoudnessItem(integrated_lufs=found.loudness.integrated, true_peak_dbtp=found.loudness.true_peak)
