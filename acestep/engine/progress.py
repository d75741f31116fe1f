"""How far a job is, from how far its songs are.

Owns the share of each stage in the whole; called from the engine's threads.
"""

from __future__ import annotations

import threading

from acestep.domain import Progress
from acestep.jobs.worker import OnProgress

# Where each stage starts and ends, measured on turbo: diffusion and decoding dominate.
_SPAN = {"render": (0.05, 0.75), "decode": (0.75, 0.95), "write": (0.95, 1.0)}
_TEXT = {"render": "Generating music", "decode": "Decoding audio", "write": "Writing files"}


class JobProgress:
    """The mean of a job's songs; says the stage of the song that is least far. Thread-safe."""

    def __init__(self, songs: int, on_progress: OnProgress) -> None:
        self._on_progress = on_progress
        self._lock = threading.Lock()
        self._done: list[tuple[float, str, str]] = [(0.0, "plan", "Preparing")] * songs

    def report(self, song: int, stage: str, fraction: float, detail: str = "") -> None:
        """Say that `song` (an index) has done `fraction` (0..1) of `stage`."""
        start, end = _SPAN[stage]
        text = f"{_TEXT[stage]} ({detail})" if detail else _TEXT[stage]
        with self._lock:
            self._done[song] = (start + (end - start) * fraction, stage, text)
            mean = sum(done for done, _, _ in self._done) / len(self._done)
            _, slowest, text = min(self._done)
        self._on_progress(Progress(mean, slowest, text))
