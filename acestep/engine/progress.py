"""How far a job is, from how far its songs are."""

from __future__ import annotations

import threading

from acestep.domain.song import Progress
from acestep.jobs.worker import OnProgress

# Where each stage starts and ends once the plan is made, measured on turbo: diffusion and decoding dominate.
_SPAN = {"render": (0.0, 0.74), "decode": (0.74, 0.95), "write": (0.95, 1.0)}
# What is found out besides takes a moment, and nobody asks for it as a rule.
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
    """The mean of a job's songs; says the stage of the song that is least far. Thread-safe."""

    def __init__(self, songs: int, on_progress: OnProgress, planning: float = 0.05, stems: int = 0) -> None:
        """`planning` is the plan's share of the whole: much where audio codes are written.

        Each song has so many `stems`, which are made like songs, one after it.
        """
        self._on_progress = on_progress
        self._planning = planning
        self._count, self._stems = songs, stems
        self._lock = threading.Lock()
        # Of each song: how far it is, where its stage starts, the stage, and what people read.
        self._songs: list[tuple[float, float, str, str]] = [(0.0, 0.0, "plan", _TEXT["plan"])] * songs
        self._begun: dict[int, tuple[float, float, str, str]] = {}  # the same of stems, once they have begun

    def stem(self, song: int, number: int) -> int:
        """The index under which stem `number` (from 0) of `song` reports."""
        return self._count + song * self._stems + number

    def plan(self, fraction: float, text: str) -> None:
        """Say how far the plan of all songs is, and what is being decided."""
        with self._lock:
            done = max(self._songs[0][0], self._planning * fraction)
            self._songs = [(done, 0.0, "plan", text)] * self._count
            self._tell()

    def report(self, song: int, stage: str, fraction: float, detail: str = "") -> None:
        """Say that `song` (an index) has done `fraction` (0..1) of `stage`."""
        start, end = (self._planning + (1 - self._planning) * edge for edge in _SPAN[stage])
        text = f"{_TEXT[stage]} ({detail})" if detail else _TEXT[stage]
        # Told under the lock: songs report from two threads, and a job must not seem to go back.
        with self._lock:
            now = (start + (end - start) * fraction, start, stage, text)
            if song < self._count:
                self._songs[song] = now
            else:
                self._begun[song] = now
            self._tell()

    def _tell(self) -> None:
        begun = [*self._songs, *self._begun.values()]
        mean = sum(done for done, *_ in begun) / (self._count * (1 + self._stems))
        *_, slowest, its_text = min(begun)
        self._on_progress(Progress(mean, slowest, its_text))
