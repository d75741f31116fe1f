from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import repeat
from pathlib import Path

import pytest

from acestep.background import BackgroundTasks
from acestep.domain.song import Progress, Song, SongRequest, TaskOptions
from acestep.errors import DataFolderError, JobCancelledError, ModelUnavailableError, StageStuckError
from acestep.files import AudioStore
from acestep.jobs.queue import JobQueue
from acestep.jobs.store import JobStore
from acestep.jobs.worker import Cancelled, OnProgress
from tests.engine.fakes import INFO
from tests.jobs.fakes import FakeWorker, Run, request
from tests.jobs.jobs_at_work import TIMEOUT, begun, ended, hangs, raises, until, view


class TestRunning:
    async def test_a_job_becomes_songs(self, queue: JobQueue, files: AudioStore, running, writes: Run):
        async with running(FakeWorker(writes)):
            receipt = await queue.submit(request("hello", songs=2))
            done = await ended(queue, receipt.job_id)
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

    async def test_jobs_queued_before_the_start_run_in_order(self, queue: JobQueue, running, writes: Run):
        receipts = [await queue.submit(request(str(number))) for number in range(5)]
        worker = FakeWorker(writes)
        async with running(worker):
            await ended(queue, receipts[-1].job_id)
        assert worker.begun == ["0", "1", "2", "3", "4"]

    async def test_no_job_begins_before_the_worker_is_ready(self, queue: JobQueue, running, writes: Run):
        worker = FakeWorker(writes)
        worker.ready.clear()
        async with running(worker):
            receipt = await queue.submit(request())
            await asyncio.wait_for(worker.waits.wait(), TIMEOUT)
            assert (await view(queue, receipt.job_id)).position == 1
            worker.ready.set()
            await ended(queue, receipt.job_id)

    async def test_a_job_that_comes_after_the_trouble_stays_in_the_queue(
        self, queue: JobQueue, running, writes: Run
    ):
        worker = FakeWorker(hangs)
        async with running(worker, concurrency=2, grace=0.0):
            await queue.submit(request("first"))
            await begun(worker, 1)
            await asyncio.sleep(0)  # the second place waits for a job
            worker.ready.clear()
            receipt = await queue.submit(request("second"))
            await asyncio.wait_for(worker.waits.wait(), TIMEOUT)
            assert (await view(queue, receipt.job_id)).position == 1
            worker.ready.set()
            await begun(worker, 2)

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
            await asyncio.wait_for(worker.waits.wait(), TIMEOUT)
            assert (await view(queue, waiting.job_id)).job.state == "queued"
            worker.ready.set()
            assert (await ended(queue, waiting.job_id)).job.state == "succeeded"

    @pytest.mark.parametrize("concurrency", [1, 3])
    async def test_no_more_run_at_once_than_allowed(
        self, queue: JobQueue, running, writes: Run, concurrency: int
    ):
        go = asyncio.Event()

        async def run(asked: SongRequest, on_progress: OnProgress, cancelled: Cancelled) -> tuple[Song, ...]:
            await go.wait()
            return await writes(asked, on_progress, cancelled)

        worker = FakeWorker(run)
        receipts = [await queue.submit(request()) for _ in range(7)]
        async with running(worker, concurrency):
            await begun(worker, concurrency)
            stats = await queue.stats()
            assert (stats.running, stats.queued) == (concurrency, 7 - concurrency)
            go.set()
            for receipt in receipts:
                assert (await ended(queue, receipt.job_id)).job.state == "succeeded"
        assert worker.most_at_work == concurrency

    async def test_progress_is_shown_while_a_job_runs(self, queue: JobQueue, running):
        worker = FakeWorker(hangs)
        async with running(worker, grace=0):
            receipt = await queue.submit(request())
            await begun(worker, 1)
            expected = Progress(0.25, "render", "half way there")
            assert (await view(queue, receipt.job_id)).progress == expected


class TestFailing:
    async def test_the_sentence_of_an_error_of_ours_is_kept(self, queue: JobQueue, running):
        async with running(FakeWorker(raises(ModelUnavailableError("Set ACESTEP_INIT_LLM=true.")))):
            receipt = await queue.submit(request())
            done = await ended(queue, receipt.job_id)
        assert (done.job.state, done.job.error) == ("failed", "Set ACESTEP_INIT_LLM=true.")

    async def test_any_other_error_is_named_and_logged(
        self, queue: JobQueue, running, caplog: pytest.LogCaptureFixture
    ):
        async with running(FakeWorker(raises(RuntimeError("secret: /home/me")))):
            receipt = await queue.submit(request())
            done = await ended(queue, receipt.job_id)
        assert done.job.state == "failed"
        assert done.job.error == "The server failed at this job (RuntimeError); its log says more."
        assert "secret: /home/me" in caplog.text
        assert "Traceback" in caplog.text

    async def test_the_next_job_runs(self, queue: JobQueue, running, writes: Run):
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
            receipt = await queue.submit(request())
            assert (await ended(queue, receipt.job_id)).job.error == "Stopped on request."

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
            receipt = await queue.submit(request("once"))
            done = await ended(queue, receipt.job_id)
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
            receipt = await queue.submit(request())
            assert (await ended(queue, receipt.job_id)).job.state == "succeeded"
        assert caplog.text.count("'job feed' broke") == 3
        assert "no such machine" in caplog.text
        assert tasks.trouble() == ""

    async def test_a_feed_that_is_broken_says_so(self, queue: JobQueue, running, writes: Run):
        worker = FakeWorker(writes)

        async def broken() -> None:
            raise LookupError("no such machine")

        worker.wait_ready = broken  # type: ignore[method-assign]
        tasks = BackgroundTasks(lambda: repeat(3600.0))

        async def is_told() -> bool:
            return "'job feed' broke: LookupError" in tasks.trouble()

        async with running(worker, tasks=tasks):
            await until(is_told)

    async def test_what_cannot_be_released_leaves_the_job_as_it_ended(
        self,
        store: JobStore,
        queue: JobQueue,
        running,
        writes: Run,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ):
        async def broken(request: SongRequest) -> None:
            raise LookupError("no such file")

        tasks = BackgroundTasks()
        async with running(FakeWorker(writes), tasks=tasks) as runner:
            monkeypatch.setattr(runner._cleaner, "release", broken)
            (tmp_path / "upload.wav").write_bytes(b"RIFF")
            asked = replace(request(), task=TaskOptions(source=str(tmp_path / "upload.wav")))
            first, second = await queue.submit(asked), await queue.submit(asked)
            for receipt in (first, second):
                assert (await ended(queue, receipt.job_id)).job.state == "succeeded"
        assert f"'job {first.job_id}' broke: LookupError" in tasks.trouble()
