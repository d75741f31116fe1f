from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Listener:
    def __init__(self) -> None:
        self.changed = asyncio.Event()
        self.has_news = True  # events in the log, and not progress alone


class Listeners:
    """Wakes what listens to a job, or to all (None). Lives on one event loop."""

    def __init__(self) -> None:
        self._by_job: defaultdict[str | None, set[Listener]] = defaultdict(set)
        self._loop: asyncio.AbstractEventLoop | None = None

    @contextmanager
    def listening(self, job_id: str | None) -> Iterator[Listener]:
        """A listener whose event is set at each change; it clears that itself."""
        self._loop = asyncio.get_running_loop()
        listener = Listener()
        self._by_job[job_id].add(listener)
        try:
            yield listener
        finally:
            self._by_job[job_id].discard(listener)
            if not self._by_job[job_id]:
                del self._by_job[job_id]

    def wake(self, job_id: str, has_news: bool = True) -> None:
        for key in (job_id, None):
            for listener in self._by_job.get(key, ()):
                listener.has_news |= has_news
                listener.changed.set()

    def note_progress(self, job_id: str) -> None:
        """From any thread."""
        if self._loop is not None and (job_id in self._by_job or None in self._by_job):
            self._loop.call_soon_threadsafe(self.wake, job_id, False)
