from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Listeners:
    """Wakes what listens to a job, or to all (None). Lives on one event loop."""

    def __init__(self) -> None:
        self._events: defaultdict[str | None, set[asyncio.Event]] = defaultdict(set)
        self._loop: asyncio.AbstractEventLoop | None = None

    @contextmanager
    def listening(self, job_id: str | None) -> Iterator[asyncio.Event]:
        """An event that is set at each change; the listener clears it."""
        self._loop = asyncio.get_running_loop()
        changed = asyncio.Event()
        self._events[job_id].add(changed)
        try:
            yield changed
        finally:
            self._events[job_id].discard(changed)
            if not self._events[job_id]:
                del self._events[job_id]

    def wake(self, job_id: str) -> None:
        for key in (job_id, None):
            for changed in self._events.get(key, ()):
                changed.set()

    def wake_from_thread(self, job_id: str) -> None:
        if self._loop is not None and (job_id in self._events or None in self._events):
            self._loop.call_soon_threadsafe(self.wake, job_id)
