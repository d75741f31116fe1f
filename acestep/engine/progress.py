"""How far a job is, from the reports of its songs."""

from __future__ import annotations

import threading

from acestep.domain.song import Progress
from acestep.jobs.worker import OnProgress

# Where each stage starts and ends once the plan is made, measured on turbo: diffusion and decoding dominate.
# The analysis takes a moment, and most requests ask for none.
_SPAN = {"render": (0.0, 0.74), "decode": (0.74, 0.95), "write": (0.95, 1.0)}
_SPAN |= dict.fromkeys(("listen", "align", "peaks", "loudness", "encode"), (0.95, 0.95))
_TEXT = {
    "plan": "Preparing",
    "render": "Generating music",
    "decode": "Decoding audio",
    "listen": "Finding the words",
    "align": "Finding the words",
    "peaks": "Drawing the outline",
    "loudness": "Measuring the loudness",
    "encode": "Preparing the stems",
    "write": "Writing files",
}


class JobProgress:
    """The mean progress of a job's songs, with the stage of the song that is least far. Thread-safe."""

    def __init__(self, songs: int, on_progress: OnProgress, planning: float = 0.05, stems: int = 0) -> None:
        """`planning` is the plan's share of the whole. Each song has `stems`, which are rendered after it."""
        self._on_progress = on_progress
        self._planning = planning
        self._count, self._stems = songs, stems
        self._lock = threading.Lock()
        # Of each song: its fraction, where its stage starts, the stage, the text.
        self._songs: list[tuple[float, float, str, str]] = [(0.0, 0.0, "plan", _TEXT["plan"])] * songs
        self._begun_stems: dict[int, tuple[float, float, str, str]] = {}

    def stem(self, song: int, number: int) -> int:
        """The index under which stem `number` (from 0) of `song` reports."""
        return self._count + song * self._stems + number

    def plan(self, fraction: float, text: str) -> None:
        with self._lock:
            done = max(self._songs[0][0], self._planning * fraction)
            self._songs = [(done, 0.0, "plan", text)] * self._count
            self._report_mean()

    def report(self, song: int, stage: str, fraction: float, detail: str = "") -> None:
        """Report that `song` (an index) has done `fraction` (0..1) of `stage`."""
        start, end = (self._planning + (1 - self._planning) * edge for edge in _SPAN[stage])
        text = f"{_TEXT[stage]} ({detail})" if detail else _TEXT[stage]
        # Reported under the lock: songs report from two threads, and a job must not seem to go back.
        with self._lock:
            now = (start + (end - start) * fraction, start, stage, text)
            if song < self._count:
                self._songs[song] = now
            else:
                self._begun_stems[song] = now
            self._report_mean()

    def _report_mean(self) -> None:
        begun = [*self._songs, *self._begun_stems.values()]
        mean = sum(done for done, *_ in begun) / (self._count * (1 + self._stems))
        *_, stage, text = min(begun)
        self._on_progress(Progress(mean, stage, text))
