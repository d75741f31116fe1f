"""Jobs that are cancelled, and jobs that another server has taken over."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from acestep.domain.song import Song, SongRequest, TaskOptions
from acestep.errors import JobCancelledError
from acestep.files import FileStore
from acestep.jobs import runner as runner_module
from acestep.jobs.cleaner import Cleaner
from acestep.jobs.model import Lease
from acestep.jobs.queue import JobQueue
from acestep.jobs.runner import Runner
from acestep.jobs.store import CANCELLED, JobStore
from acestep.jobs.worker import Cancelled, OnProgress
from tests.jobs.fakes import FakeWorker, Run, request, song
from tests.jobs.jobs_at_work import begun, ended, hangs, stop_asked, until, view


async def cancel(queue: JobQueue, job_id: str) -> None:
    assert await queue.cancel(job_id) is not None
    done = await ended(queue, job_id)
    assert (done.job.state, done.job.error, done.job.songs) == ("cancelled", CANCELLED, ())


async def test_a_job_that_waits_for_something_ends_at_once(queue: JobQueue, running):
    first, second = await queue.submit(request("first")), await queue.submit(request("second"))
    worker = FakeWorker(hangs)
    async with running(worker):
        await begun(worker, 1)
        await cancel(queue, first.job_id)
        await begun(worker, 2)
        assert worker.begun == ["first", "second"]
        await cancel(queue, second.job_id)
        assert (await queue.stats()).running == 0


async def test_its_threads_are_told(queue: JobQueue, running):
    receipt, seen = await queue.submit(request()), asyncio.Event()

    async def asks(asked: SongRequest, on_progress: OnProgress, cancelled: Cancelled) -> tuple[Song, ...]:
        async def thread() -> None:
            await stop_asked(cancelled)
            seen.set()

        await asyncio.shield(asyncio.create_task(thread()))
        raise JobCancelledError("In a step.")

    worker = FakeWorker(asks)
    async with running(worker):
        await begun(worker, 1)
        await cancel(queue, receipt.job_id)
        await asyncio.wait_for(seen.wait(), 10)


async def test_a_worker_may_notice_first(queue: JobQueue, running):
    receipt = await queue.submit(request())

    async def stubborn(asked: SongRequest, on_progress: OnProgress, cancelled: Cancelled) -> tuple[Song, ...]:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise JobCancelledError("In a step.") from None
        raise AssertionError

    worker = FakeWorker(stubborn)
    async with running(worker):
        await begun(worker, 1)
        await cancel(queue, receipt.job_id)


async def test_a_queued_job_does_not_run(queue: JobQueue, running, writes: Run):
    worker = FakeWorker(writes)
    worker.ready.clear()
    async with running(worker):
        kept, dropped = await queue.submit(request("kept")), await queue.submit(request("dropped"))
        cancelled = await queue.cancel(dropped.job_id)
        assert cancelled is not None and cancelled.job.state == "cancelled"
        worker.ready.set()
        await ended(queue, kept.job_id)
        assert worker.begun == ["kept"]
        assert (await view(queue, dropped.job_id)).job.state == "cancelled"


async def test_a_waiting_caller_hears_of_it(queue: JobQueue):
    receipt = await queue.submit(request())
    waiting = asyncio.create_task(queue.wait(receipt.job_id, 30))
    await asyncio.sleep(0)
    await queue.cancel(receipt.job_id)
    heard = await asyncio.wait_for(waiting, 10)
    assert heard is not None and heard.job.state == "cancelled"


async def test_a_song_that_is_made_already_is_kept(queue: JobQueue, store: JobStore, running, monkeypatch):
    receipt = await queue.submit(request())
    finish = store.finish

    async def slowly(lease: Lease, songs: tuple[Song, ...]) -> bool:
        await queue.cancel(lease.job_id)
        await asyncio.sleep(0.01)
        return await finish(lease, songs)

    monkeypatch.setattr(store, "finish", slowly)

    async def quickly(asked: SongRequest, on_progress: OnProgress, cancelled: Cancelled) -> tuple[Song, ...]:
        return (song("a.mp3"),)

    async with running(FakeWorker(quickly)):
        done = await ended(queue, receipt.job_id)
    assert (done.job.state, done.job.is_cancelling) == ("succeeded", False)


async def test_what_is_not_there_or_has_ended(queue: JobQueue, running, writes: Run):
    assert await queue.cancel("unknown") is None
    receipt = await queue.submit(request())
    async with running(FakeWorker(writes)):
        done = await ended(queue, receipt.job_id)
        assert await queue.cancel(receipt.job_id) == done


@pytest.mark.parametrize("is_running", [False, True])
async def test_its_uploads_are_deleted(
    store: JobStore, queue: JobQueue, files, tmp_path: Path, is_running: bool
):
    uploads = FileStore(tmp_path / "uploads")
    with uploads.new_file("wav") as new:
        new.path.write_bytes(b"RIFF")
    path = tmp_path / "uploads" / new.name
    receipt = await queue.submit(replace(request(), task=TaskOptions(source=str(path))))
    worker = FakeWorker(hangs)
    if not is_running:
        worker.ready.clear()
    runner = Runner(queue, worker, Cleaner(store, files, 3600, uploads))
    await runner.start()
    try:
        if is_running:
            await begun(worker, 1)
        await queue.cancel(receipt.job_id)

        async def is_deleted() -> bool:
            return not path.exists()

        await until(is_deleted)
    finally:
        await runner.stop()


async def test_a_job_of_which_another_server_took_the_lease_is_dropped(
    store: JobStore, queue: JobQueue, running, monkeypatch: pytest.MonkeyPatch, caplog
):
    monkeypatch.setattr(runner_module, "RENEW_SECONDS", 0.01)
    receipt = await queue.submit(request())
    worker = FakeWorker(hangs)
    async with running(worker):
        await begun(worker, 1)
        await store.reclaim(alone=True)
        other = await store.claim()  # as a server elsewhere would
        assert other is not None

        async def is_dropped() -> bool:
            return worker.at_work == 0

        await until(is_dropped)
        assert (await view(queue, receipt.job_id)).job.state == "running"
        assert await store.finish(other.job.lease, (song("theirs.mp3"),))
    done = await view(queue, receipt.job_id)
    assert [each.file for each in done.job.songs] == ["theirs.mp3"]
    assert "went to another server" in caplog.text


async def test_a_lease_of_a_server_that_is_gone_runs_here(
    store: JobStore, queue: JobQueue, running, writes: Run, clock, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(runner_module, "RENEW_SECONDS", 0.01)
    worker = FakeWorker(writes)
    worker.ready.clear()  # before it can take the job
    async with running(worker):
        receipt = await queue.submit(request())
        assert await store.claim() is not None  # elsewhere, by a server that dies
        clock.now += 3600
        worker.ready.set()
        assert (await ended(queue, receipt.job_id)).job.state == "succeeded"


async def test_the_first_step_of_progress_is_noted(queue: JobQueue, running, path: Path):
    await queue.submit(request())
    worker = FakeWorker(hangs)  # it reports progress before it hangs

    async def is_noted() -> bool:
        with closing(sqlite3.connect(path)) as database:
            return bool(database.execute("SELECT has_begun FROM jobs").fetchone()[0])

    async with running(worker, grace=0.0):
        await begun(worker, 1)
        await until(is_noted)
