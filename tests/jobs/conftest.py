from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import pytest

from acestep.files import AudioStore
from acestep.jobs.queue import JobQueue
from acestep.jobs.store import JobStore


@dataclass
class Clock:
    """Time that stands still until it is told."""

    now: float = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(tmp_path: Path, clock: Clock) -> AsyncIterator[JobStore]:
    store = JobStore(tmp_path / "jobs.sqlite3", clock)
    yield store
    await store.close()


@pytest.fixture
def queue(store: JobStore) -> JobQueue:
    return JobQueue(store, 200, average_default=5.0, average_window=3, delays=lambda: repeat(0.001))


@pytest.fixture
def files(tmp_path: Path) -> AudioStore:
    return AudioStore(tmp_path / "audio", b"s" * 32)
