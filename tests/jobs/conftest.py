from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import pytest

from acestep.background import BackgroundTasks
from acestep.domain.song import Song, SongRequest
from acestep.files import AudioStore
from acestep.jobs.cleaner import Cleaner
from acestep.jobs.queue import JobQueue
from acestep.jobs.runner import Runner
from acestep.jobs.store import JobStore
from acestep.jobs.worker import Cancelled, OnProgress
from tests.jobs.fakes import FakeWorker, Run, write_songs
from tests.jobs.jobs_at_work import NO_LIMIT


@dataclass
class Clock:
    """A clock that a test sets."""

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
    return JobQueue(store, 200, average_window=3, delays=lambda: repeat(0.001))


@pytest.fixture
def files(tmp_path: Path) -> AudioStore:
    return AudioStore(tmp_path / "audio", b"s" * 32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.sqlite3"


@pytest.fixture
def writes(files: AudioStore) -> Run:
    async def run(asked: SongRequest, on_progress: OnProgress, cancelled: Cancelled) -> tuple[Song, ...]:
        return write_songs(files, asked)

    return run


@pytest.fixture
def running(store: JobStore, queue: JobQueue, files: AudioStore) -> Callable[..., object]:
    @asynccontextmanager
    async def start(
        worker: FakeWorker,
        concurrency: int = 1,
        grace: float = NO_LIMIT,
        tasks: BackgroundTasks | None = None,
    ) -> AsyncIterator[Runner]:
        runner = Runner(queue, worker, Cleaner(store, files, 3600), concurrency, grace, tasks)
        await runner.start()
        try:
            yield runner
        finally:
            await runner.stop()

    return start
