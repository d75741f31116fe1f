"""Workers, and waiting for what a runner does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from acestep.domain.song import Song, SongRequest
from acestep.jobs.model import JobView
from acestep.jobs.queue import JobQueue
from acestep.jobs.worker import Cancelled, OnProgress
from tests.jobs.fakes import FakeWorker, Run

TIMEOUT = 20.0  # seconds that a busy machine gets before a test fails
NO_LIMIT = 3600.0  # a grace longer than any test takes


async def hangs(asked: SongRequest, on_progress: OnProgress, cancelled: Cancelled) -> tuple[Song, ...]:
    await asyncio.Event().wait()
    raise AssertionError


async def stop_asked(cancelled: Cancelled) -> None:
    while not cancelled():  # noqa: ASYNC110 - a worker has nothing but this to ask
        await asyncio.sleep(0.001)


def raises(error: BaseException) -> Run:
    async def run(asked: SongRequest, on_progress: OnProgress, cancelled: Cancelled) -> tuple[Song, ...]:
        raise error

    return run


async def view(queue: JobQueue, job_id: str) -> JobView:
    (found,) = await queue.find([job_id])
    assert found is not None
    return found


async def until(condition: Callable[[], Awaitable[bool]], limit: float = 10.0) -> None:
    async with asyncio.timeout(limit):
        while not await condition():  # noqa: ASYNC110 - the database has no events
            await asyncio.sleep(0.002)


async def ended(queue: JobQueue, job_id: str) -> JobView:
    async def has_ended() -> bool:
        return (await view(queue, job_id)).job.finished_at is not None

    await until(has_ended)
    return await view(queue, job_id)


async def begun(worker: FakeWorker, count: int) -> None:
    async def have_begun() -> bool:
        return len(worker.begun) >= count

    await until(have_begun)
