from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from acestep.domain.song import Song, SongRequest
from acestep.errors import JobCancelledError, ServerStoppingError
from acestep.jobs.queue import JobQueue
from acestep.jobs.store import JobStore
from acestep.jobs.worker import Cancelled, OnProgress
from tests.jobs.fakes import FakeWorker, Run, claim, request
from tests.jobs.jobs_at_work import NO_LIMIT, TIMEOUT, begun, ended, hangs, stop_asked, view
from tests.jobs.outages import read_only


class TestStopping:
    async def is_back(self, queue: JobQueue, job_id: str) -> bool:
        found = await view(queue, job_id)
        return (found.job.state, found.job.attempts, found.position) == ("queued", 0, 1)

    async def stop_in_the_middle(
        self, queue: JobQueue, running, worker: FakeWorker, grace: float = NO_LIMIT
    ) -> str:
        """Submit a job and stop while it runs; returns its id."""
        async with asyncio.timeout(TIMEOUT), running(worker, grace=grace):
            receipt = await queue.submit(request())
            await begun(worker, 1)
        return receipt.job_id

    async def test_an_idle_runner_does_not_wait_for_the_grace(self, running, writes: Run):
        async with asyncio.timeout(TIMEOUT), running(FakeWorker(writes), grace=NO_LIMIT):
            pass

    async def test_jobs_stay_queued_if_the_worker_is_not_ready(self, queue: JobQueue, running, writes: Run):
        worker = FakeWorker(writes)
        worker.ready.clear()
        async with asyncio.timeout(TIMEOUT), running(worker, grace=NO_LIMIT):
            receipt = await queue.submit(request())
            await worker.waits.wait()
        assert await self.is_back(queue, receipt.job_id)

    async def test_a_job_that_stops_when_asked_is_put_back(self, queue: JobQueue, running):
        async def run(asked: SongRequest, on_progress: OnProgress, cancelled: Cancelled) -> tuple[Song, ...]:
            await stop_asked(cancelled)
            raise JobCancelledError("Stopped.")

        job_id = await self.stop_in_the_middle(queue, running, FakeWorker(run))
        assert await self.is_back(queue, job_id)

    async def test_a_job_that_does_not_stop_is_asked_and_then_cancelled(self, queue: JobQueue, running):
        heard = asyncio.Event()

        async def run(asked: SongRequest, on_progress: OnProgress, cancelled: Cancelled) -> tuple[Song, ...]:
            await stop_asked(cancelled)
            heard.set()
            return await hangs(asked, on_progress, cancelled)

        worker = FakeWorker(run)
        job_id = await self.stop_in_the_middle(queue, running, worker, grace=0.1)
        assert await self.is_back(queue, job_id)
        assert (heard.is_set(), worker.at_work) == (True, 0)

    async def test_a_job_that_ends_in_the_grace_has_ended(self, queue: JobQueue, running, writes: Run):
        async def run(asked: SongRequest, on_progress: OnProgress, cancelled: Cancelled) -> tuple[Song, ...]:
            await stop_asked(cancelled)
            return await writes(asked, on_progress, cancelled)

        job_id = await self.stop_in_the_middle(queue, running, FakeWorker(run))
        assert (await view(queue, job_id)).job.state == "succeeded"

    async def test_a_job_that_breaks_during_the_stop_is_put_back(self, queue: JobQueue, running):
        async def run(asked: SongRequest, on_progress: OnProgress, cancelled: Cancelled) -> tuple[Song, ...]:
            await stop_asked(cancelled)
            raise RuntimeError("cannot schedule new futures after shutdown")

        job_id = await self.stop_in_the_middle(queue, running, FakeWorker(run))
        assert await self.is_back(queue, job_id)

    async def test_a_worker_that_will_not_be_cancelled_does_not_hold_up_the_stop(
        self, queue: JobQueue, running, writes: Run, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr("acestep.jobs.runner.UNWIND_SECONDS", 0.05)
        go, tasks = asyncio.Event(), list[asyncio.Task[None] | None]()

        async def run(asked: SongRequest, on_progress: OnProgress, cancelled: Cancelled) -> tuple[Song, ...]:
            tasks.append(asyncio.current_task())
            while not go.is_set():
                try:
                    await go.wait()
                except asyncio.CancelledError:
                    continue
            return await writes(asked, on_progress, cancelled)

        job_id = await self.stop_in_the_middle(queue, running, FakeWorker(run), grace=0)
        go.set()
        await asyncio.wait([task for task in tasks if task])
        assert await self.is_back(queue, job_id)  # its late result counts for nothing

    async def test_if_the_database_refuses_the_next_start_puts_jobs_back(
        self, store: JobStore, queue: JobQueue, running, caplog: pytest.LogCaptureFixture, tmp_path: Path
    ):
        worker = FakeWorker(hangs)
        async with running(worker, grace=0):
            receipt = await queue.submit(request())
            await begun(worker, 1)
            refusing = read_only(store, tmp_path / "jobs.sqlite3")
            refusing.__enter__()
        refusing.__exit__(None, None, None)
        assert "The next start queues the running jobs again" in caplog.text
        assert await queue.recover() == (1, 0)
        assert (await view(queue, receipt.job_id)).position == 1

    async def test_the_next_runner_does_what_was_put_back(self, queue: JobQueue, running, writes: Run):
        job_id = await self.stop_in_the_middle(queue, running, FakeWorker(hangs), grace=0)
        later = await queue.submit(request("later"))
        worker = FakeWorker(writes)
        async with running(worker):
            assert (await ended(queue, job_id)).job.attempts == 1
            await ended(queue, later.job_id)
        assert worker.begun == ["a song", "later"]


class TestStarting:
    async def test_a_job_at_which_servers_died_five_times_is_not_tried_again(
        self, store: JobStore, queue: JobQueue, running, writes: Run, caplog: pytest.LogCaptureFixture
    ):
        receipt = await queue.submit(request())
        for _ in range(4):
            await store.begin((await claim(store)).lease)
            await store.reclaim(alone=True)
        await store.begin((await claim(store)).lease)
        worker = FakeWorker(writes)
        async with running(worker):
            done = await view(queue, receipt.job_id)
        assert done.job.state == "failed"
        assert done.job.error is not None
        assert done.job.error.startswith("The server died 5 times while it made the songs of this job")
        assert worker.begun == []
        assert "0 running jobs are queued again, 1 failed" in caplog.text


class TestDraining:
    async def test_what_runs_may_end_and_nothing_else_begins(self, queue: JobQueue, running):
        may_end = asyncio.Event()

        async def run(asked: SongRequest, on_progress: OnProgress, cancelled: Cancelled) -> tuple[Song, ...]:
            await may_end.wait()
            return ()

        worker = FakeWorker(run)
        async with asyncio.timeout(TIMEOUT), running(worker) as runner:
            first, second = [(await queue.submit(request())).job_id for _ in range(2)]
            await begun(worker, 1)
            draining = asyncio.create_task(runner.drain(NO_LIMIT))
            while not queue.is_stopping:  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0)
            with pytest.raises(ServerStoppingError):
                await queue.submit(request())
            may_end.set()
            await draining
            states = [(await view(queue, job_id)).job.state for job_id in (first, second)]
        assert states == ["succeeded", "queued"]
        assert len(worker.begun) == 1

    async def test_what_takes_longer_is_put_back(self, queue: JobQueue, running):
        worker = FakeWorker(hangs)
        async with asyncio.timeout(TIMEOUT), running(worker, grace=0.01) as runner:
            job_id = (await queue.submit(request())).job_id
            await begun(worker, 1)
            await runner.drain(0.01)
        assert (await view(queue, job_id)).job.state == "queued"
