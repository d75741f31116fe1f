from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import repeat
from pathlib import Path

import pytest

from acestep.background import BackgroundTasks
from acestep.domain.song import Progress, Song, SongRequest
from acestep.errors import DataFolderError, JobCancelledError, ModelUnavailableError, StageStuckError
from acestep.files import AudioStore
from acestep.jobs import runner as module
from acestep.jobs.cleaner import Cleaner
from acestep.jobs.model import JobView
from acestep.jobs.queue import JobQueue
from acestep.jobs.runner import Runner
from acestep.jobs.store import JobStore
from acestep.jobs.worker import Cancelled, OnProgress
from tests.engine.fakes import INFO
from tests.jobs.fakes import FakeWorker, Run, request, write_songs
from tests.jobs.outages import read_only

# Long enough for a job that ends by itself on the busiest machine; a job that hangs is given less.
GRACE = 20.0


@pytest.fixture
def writes(files: AudioStore) -> Run:
    async def run(asked: SongRequest, on_progress: OnProgress, cancelled: Cancelled) -> tuple[Song, ...]:
        return write_songs(files, asked)

    return run


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


@pytest.fixture
def running(store: JobStore, queue: JobQueue, files: AudioStore) -> Callable[..., object]:
    @asynccontextmanager
    async def start(
        worker: FakeWorker, concurrency: int = 1, grace: float = GRACE, tasks: BackgroundTasks | None = None
    ) -> AsyncIterator[Runner]:
        runner = Runner(queue, worker, Cleaner(store, files, 3600), concurrency, grace, tasks)
        await runner.start()
        try:
            yield runner
        finally:
            await runner.stop()

    return start


async def view(queue: JobQueue, job_id: str) -> JobView:
    (found,) = await queue.find([job_id])
    assert found is not None
    return found


async def until(condition: Callable[[], Awaitable[bool]], limit: float = 10.0) -> None:
    async with asyncio.timeout(limit):
        while not await condition():  # noqa: ASYNC110 - what is in the database tells nobody
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


class TestRunning:
    async def test_a_job_becomes_songs(self, queue: JobQueue, files: AudioStore, running, writes: Run):
        async with running(FakeWorker(writes)):
            ticket = await queue.submit(request("hello", songs=2))
            done = await ended(queue, ticket.job_id)
        assert (done.job.state, done.job.error, done.progress) == ("succeeded", None, None)
        paths = [files.path(song.file) for song in done.job.songs]
        assert [path and path.read_text() for path in paths] == ["hello 0", "hello 1"]

    async def test_jobs_for_models_in_memory_go_first(self, queue: JobQueue, running, writes: Run):
        worker = FakeWorker(writes)
        infos = (replace(INFO, name="default"), replace(INFO, name="other", state="ready"))
        worker.models = lambda: infos  # type: ignore[method-assign]
        for caption, model in (("default", None), ("default by name", "default"), ("other", "other")):
            await queue.submit(replace(request(caption), model=model))
        async with running(worker):
            await begun(worker, 3)
        assert worker.begun == ["other", "default", "default by name"]

    async def test_what_waited_before_the_start_runs_in_order(self, queue: JobQueue, running, writes: Run):
        tickets = [await queue.submit(request(str(number))) for number in range(5)]
        worker = FakeWorker(writes)
        async with running(worker):
            await ended(queue, tickets[-1].job_id)
        assert worker.begun == ["0", "1", "2", "3", "4"]

    async def test_no_job_begins_before_the_worker_is_ready(self, queue: JobQueue, running, writes: Run):
        worker = FakeWorker(writes)
        worker.ready.clear()
        async with running(worker):
            ticket = await queue.submit(request())
            await asyncio.sleep(0.01)
            assert (await view(queue, ticket.job_id)).position == 1
            worker.ready.set()
            await ended(queue, ticket.job_id)

    async def test_jobs_stay_in_the_queue_while_the_worker_is_in_trouble(
        self, queue: JobQueue, running, writes: Run
    ):
        async def stuck(asked: SongRequest, on_progress: OnProgress, cancelled: Cancelled):
            if asked.caption != "stuck":
                return await writes(asked, on_progress, cancelled)
            worker.ready.clear()
            raise StageStuckError("render", 1800)

        worker = FakeWorker(stuck)
        async with running(worker):
            failed = await ended(queue, (await queue.submit(request("stuck"))).job_id)
            assert (failed.job.state, "Stage render" in str(failed.job.error)) == ("failed", True)
            waiting = await queue.submit(request("next"))
            await asyncio.sleep(0.05)
            assert (await view(queue, waiting.job_id)).job.state == "queued"
            worker.ready.set()
            assert (await ended(queue, waiting.job_id)).job.state == "succeeded"

    @pytest.mark.parametrize("concurrency", [1, 3])
    async def test_as_many_run_at_once_as_may(self, queue: JobQueue, running, writes: Run, concurrency: int):
        go = asyncio.Event()

        async def run(asked: SongRequest, on_progress: OnProgress, cancelled: Cancelled) -> tuple[Song, ...]:
            await go.wait()
            return await writes(asked, on_progress, cancelled)

        worker = FakeWorker(run)
        tickets = [await queue.submit(request()) for _ in range(7)]
        async with running(worker, concurrency):
            await begun(worker, concurrency)
            stats = await queue.stats()
            assert (stats.running, stats.queued) == (concurrency, 7 - concurrency)
            go.set()
            for ticket in tickets:
                assert (await ended(queue, ticket.job_id)).job.state == "succeeded"
        assert worker.most_at_work == concurrency

    async def test_progress_is_shown_while_a_job_runs(self, queue: JobQueue, running):
        worker = FakeWorker(hangs)
        async with running(worker, grace=0):
            ticket = await queue.submit(request())
            await begun(worker, 1)
            expected = Progress(0.25, "render", "half way there")
            assert (await view(queue, ticket.job_id)).progress == expected


class TestFailing:
    async def test_an_error_made_for_people_is_told_as_it_is(self, queue: JobQueue, running):
        async with running(FakeWorker(raises(ModelUnavailableError("Set ACESTEP_INIT_LLM=true.")))):
            ticket = await queue.submit(request())
            done = await ended(queue, ticket.job_id)
        assert (done.job.state, done.job.error) == ("failed", "Set ACESTEP_INIT_LLM=true.")

    async def test_any_other_error_is_named_and_its_trace_goes_to_the_log(
        self, queue: JobQueue, running, caplog: pytest.LogCaptureFixture
    ):
        async with running(FakeWorker(raises(RuntimeError("secret: /home/me")))):
            ticket = await queue.submit(request())
            done = await ended(queue, ticket.job_id)
        assert done.job.state == "failed"
        assert done.job.error == "The server failed at this job (RuntimeError); its log says more."
        assert "secret: /home/me" in caplog.text
        assert "Traceback" in caplog.text

    async def test_the_next_job_is_none_the_worse(self, queue: JobQueue, running, writes: Run):
        async def run(asked: SongRequest, on_progress: OnProgress, cancelled: Cancelled) -> tuple[Song, ...]:
            if asked.caption == "bad":
                raise ValueError("bad")
            return await writes(asked, on_progress, cancelled)

        async with running(FakeWorker(run)):
            bad, good = await queue.submit(request("bad")), await queue.submit(request("good"))
            assert (await ended(queue, bad.job_id)).job.state == "failed"
            assert (await ended(queue, good.job_id)).job.state == "succeeded"

    async def test_a_job_that_was_asked_to_stop_by_its_user_ends(self, queue: JobQueue, running):
        async with running(FakeWorker(raises(JobCancelledError("Stopped on request.")))):
            ticket = await queue.submit(request())
            assert (await ended(queue, ticket.job_id)).job.error == "Stopped on request."

    @pytest.mark.parametrize("step", ["claim", "finish"])
    async def test_a_disk_that_is_full_for_a_while_delays_a_job_and_loses_nothing(
        self,
        store: JobStore,
        queue: JobQueue,
        running,
        writes: Run,
        step: str,
        monkeypatch: pytest.MonkeyPatch,
    ):
        really, refused = getattr(store, step), 0

        async def full_at_first(*args: object) -> object:
            nonlocal refused
            if refused < 3:
                refused += 1
                raise DataFolderError("The disk is full.")
            return await really(*args)

        monkeypatch.setattr(store, step, full_at_first)
        worker = FakeWorker(writes)
        async with running(worker):
            ticket = await queue.submit(request("once"))
            done = await ended(queue, ticket.job_id)
        assert (done.job.state, len(done.job.songs), worker.begun) == ("succeeded", 1, ["once"])
        assert refused == 3

    @pytest.mark.parametrize("breaks", ["wait_ready", "models"])
    async def test_a_feed_that_breaks_goes_on(
        self,
        queue: JobQueue,
        running,
        writes: Run,
        breaks: str,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ):
        worker = FakeWorker(writes)
        really, errors = getattr(worker, breaks), [LookupError("no such machine") for _ in range(3)]

        def broken() -> object:
            if errors:
                raise errors.pop()
            return really()

        monkeypatch.setattr(worker, breaks, broken)
        tasks = BackgroundTasks(lambda: repeat(0.0))
        async with running(worker, tasks=tasks):
            ticket = await queue.submit(request())
            assert (await ended(queue, ticket.job_id)).job.state == "succeeded"
        assert caplog.text.count("The job feed broke") == 3
        assert "no such machine" in caplog.text
        assert tasks.trouble() == ""

    async def test_a_feed_that_is_broken_says_so(self, queue: JobQueue, running, writes: Run):
        worker = FakeWorker(writes)

        async def broken() -> None:
            raise LookupError("no such machine")

        worker.wait_ready = broken  # type: ignore[method-assign]
        tasks = BackgroundTasks(lambda: repeat(3600.0))

        async def is_told() -> bool:
            return "The job feed broke: LookupError" in tasks.trouble()

        async with running(worker, tasks=tasks):
            await until(is_told)

    async def test_what_cannot_be_released_leaves_the_job_as_it_ended(
        self,
        store: JobStore,
        queue: JobQueue,
        running,
        writes: Run,
        monkeypatch: pytest.MonkeyPatch,
    ):
        async def broken(request: SongRequest) -> None:
            raise LookupError("no such file")

        tasks = BackgroundTasks()
        async with running(FakeWorker(writes), tasks=tasks) as runner:
            monkeypatch.setattr(runner._cleaner, "release", broken)
            first, second = await queue.submit(request()), await queue.submit(request())
            for ticket in (first, second):
                assert (await ended(queue, ticket.job_id)).job.state == "succeeded"
        assert f"Job {first.job_id} broke: LookupError" in tasks.trouble()


class TestStopping:
    async def is_back(self, queue: JobQueue, job_id: str) -> bool:
        found = await view(queue, job_id)
        return (found.job.state, found.job.attempts, found.position) == ("queued", 0, 1)

    async def stop_in_the_middle(
        self, queue: JobQueue, running, worker: FakeWorker, grace: float = GRACE
    ) -> tuple[str, float]:
        """Submit a job and stop while it runs; returns its id and how long stopping took."""
        async with running(worker, grace=grace):
            ticket = await queue.submit(request())
            await begun(worker, 1)
            stopping = time.monotonic()
        return ticket.job_id, time.monotonic() - stopping

    async def test_an_idle_runner_stops_at_once(self, queue: JobQueue, running, writes: Run):
        async with running(FakeWorker(writes)):
            stopping = time.monotonic()
        assert time.monotonic() - stopping < GRACE / 2

    async def test_while_the_worker_is_not_ready_stops_at_once(self, queue: JobQueue, running, writes: Run):
        worker = FakeWorker(writes)
        worker.ready.clear()
        async with running(worker):
            ticket = await queue.submit(request())
        assert await self.is_back(queue, ticket.job_id)

    async def test_a_job_that_stops_when_asked_is_put_back(self, queue: JobQueue, running):
        async def run(asked: SongRequest, on_progress: OnProgress, cancelled: Cancelled) -> tuple[Song, ...]:
            await stop_asked(cancelled)
            raise JobCancelledError("Stopped.")

        job_id, _ = await self.stop_in_the_middle(queue, running, FakeWorker(run))
        assert await self.is_back(queue, job_id)

    async def test_a_job_that_does_not_stop_is_put_back_after_the_grace(self, queue: JobQueue, running):
        worker = FakeWorker(hangs)
        job_id, took = await self.stop_in_the_middle(queue, running, worker, grace=0.1)
        assert await self.is_back(queue, job_id)
        assert 0.1 <= took < GRACE / 2
        assert worker.at_work == 0

    async def test_a_job_that_ends_in_the_grace_has_ended(self, queue: JobQueue, running, writes: Run):
        async def run(asked: SongRequest, on_progress: OnProgress, cancelled: Cancelled) -> tuple[Song, ...]:
            await stop_asked(cancelled)
            return await writes(asked, on_progress, cancelled)

        job_id, _ = await self.stop_in_the_middle(queue, running, FakeWorker(run))
        assert (await view(queue, job_id)).job.state == "succeeded"

    async def test_a_job_that_breaks_because_all_goes_down_is_put_back(self, queue: JobQueue, running):
        async def run(asked: SongRequest, on_progress: OnProgress, cancelled: Cancelled) -> tuple[Song, ...]:
            await stop_asked(cancelled)
            raise RuntimeError("cannot schedule new futures after shutdown")

        job_id, _ = await self.stop_in_the_middle(queue, running, FakeWorker(run))
        assert await self.is_back(queue, job_id)

    async def test_a_worker_that_will_not_be_cancelled_does_not_hold_up_the_stop(
        self, queue: JobQueue, running, writes: Run, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(module, "UNWIND_SECONDS", 0.05)
        go, gone = asyncio.Event(), asyncio.Event()

        async def run(asked: SongRequest, on_progress: OnProgress, cancelled: Cancelled) -> tuple[Song, ...]:
            while not go.is_set():
                try:
                    await go.wait()
                except asyncio.CancelledError:
                    continue
            gone.set()
            return await writes(asked, on_progress, cancelled)

        job_id, took = await self.stop_in_the_middle(queue, running, FakeWorker(run), grace=0)
        assert took < GRACE / 2
        go.set()
        await gone.wait()
        await asyncio.sleep(0.01)
        assert await self.is_back(queue, job_id)  # its late result counts for nothing

    async def test_where_the_database_refuses_the_next_start_puts_jobs_back(
        self, store: JobStore, queue: JobQueue, running, caplog: pytest.LogCaptureFixture, tmp_path: Path
    ):
        worker = FakeWorker(hangs)
        async with running(worker, grace=0):
            ticket = await queue.submit(request())
            await begun(worker, 1)
            refusing = read_only(store, tmp_path / "jobs.sqlite3")
            refusing.__enter__()
        refusing.__exit__(None, None, None)
        assert "The next start puts the running jobs back" in caplog.text
        assert await queue.recover() == (1, 0)
        assert (await view(queue, ticket.job_id)).position == 1

    async def test_the_next_runner_does_what_was_put_back(self, queue: JobQueue, running, writes: Run):
        job_id, _ = await self.stop_in_the_middle(queue, running, FakeWorker(hangs), grace=0)
        later = await queue.submit(request("later"))
        worker = FakeWorker(writes)
        async with running(worker):
            assert (await ended(queue, job_id)).job.attempts == 1
            await ended(queue, later.job_id)
        assert worker.begun == ["a song", "later"]


class TestStarting:
    async def test_a_job_that_died_twice_with_the_server_is_not_tried_again(
        self, store: JobStore, queue: JobQueue, running, writes: Run, caplog: pytest.LogCaptureFixture
    ):
        ticket = await queue.submit(request())
        await store.claim()
        await store.recover()
        await store.claim()
        worker = FakeWorker(writes)
        async with running(worker):
            done = await view(queue, ticket.job_id)
        assert done.job.state == "failed"
        assert done.job.error is not None
        assert done.job.error.startswith("The server stopped twice while this job was running")
        assert worker.begun == []
        assert "0 jobs are queued again, 1 failed" in caplog.text
