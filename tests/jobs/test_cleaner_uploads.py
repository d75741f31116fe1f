"""Uploads are kept until their job has ended, also over a restart."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from acestep.domain.song import Song, SongRequest
from acestep.errors import AceStepError
from acestep.files import AudioStore, FileStore
from acestep.jobs.cleaner import Cleaner
from acestep.jobs.queue import JobQueue
from acestep.jobs.runner import Runner
from acestep.jobs.store import JobStore
from acestep.jobs.worker import Cancelled, OnProgress
from tests.jobs.fakes import FakeWorker, Run, with_audio, write_songs

TIMEOUT = 20.0


@pytest.fixture
def uploads(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "uploads")


@pytest.fixture
def cleaner(store: JobStore, files: AudioStore, uploads: FileStore) -> Cleaner:
    return Cleaner(store, files, 3600, uploads)


def upload(uploads: FileStore) -> Path:
    with uploads.new_file("wav") as new:
        new.path.write_bytes(b"RIFF")
    path = uploads.path(new.name)
    assert path is not None
    return path


def age(path: Path) -> None:
    os.utime(path, (0, 0))


async def until(is_so: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(TIMEOUT):
        while not await is_so():  # noqa: ASYNC110 - files have no events
            await asyncio.sleep(0.002)


def works(files: AudioStore) -> Run:
    async def run(asked: SongRequest, on_progress: OnProgress, cancelled: Cancelled) -> tuple[Song, ...]:
        assert Path(asked.task.source).exists()  # noqa: ASYNC240
        return write_songs(files, asked)

    return run


async def fails(asked: SongRequest, on_progress: OnProgress, cancelled: Cancelled) -> tuple[Song, ...]:
    raise AceStepError("Out of tune.")


@pytest.mark.parametrize("ends", ["well", "badly"])
async def test_uploads_are_deleted_when_their_job_has_ended(
    queue: JobQueue, files: AudioStore, uploads: FileStore, cleaner: Cleaner, ends: str
):
    source, reference = upload(uploads), upload(uploads)
    runner = Runner(queue, FakeWorker(works(files) if ends == "well" else fails), cleaner)
    await queue.submit(with_audio(source, reference))
    await runner.start()

    async def gone() -> bool:
        return not source.exists() and not reference.exists()

    await until(gone)
    await runner.stop()


async def test_files_outside_of_the_uploads_stay(
    queue: JobQueue, files: AudioStore, uploads: FileStore, cleaner: Cleaner, tmp_path: Path
):
    named, decoy = tmp_path / "song.wav", upload(uploads)
    elsewhere = tmp_path / decoy.name  # called like an upload, but it lies elsewhere
    for path in (named, elsewhere):
        path.write_bytes(b"RIFF")
    await cleaner.release(with_audio(named, elsewhere))
    assert named.exists() and elsewhere.exists() and decoy.exists()


async def test_cleaning_keeps_what_queued_and_running_jobs_need(
    store: JobStore, queue: JobQueue, uploads: FileStore, cleaner: Cleaner
):
    running, queued, orphan, fresh = (upload(uploads) for _ in range(4))
    await queue.submit(with_audio(running))
    await queue.take()
    await queue.submit(with_audio(queued))
    for path in (running, queued, orphan):
        age(path)
    await cleaner.clean()
    assert [path.exists() for path in (running, queued, orphan, fresh)] == [True, True, False, True]


async def test_an_upload_that_two_jobs_name_is_deleted_with_the_last(
    queue: JobQueue, uploads: FileStore, cleaner: Cleaner
):
    shared = upload(uploads)
    for _ in range(2):
        await queue.submit(with_audio(shared))
    first, second = await queue.take(), await queue.take()
    await queue.fail(first.id, "no")
    await cleaner.release(first.request)
    assert shared.exists()
    await queue.fail(second.id, "no")
    await cleaner.release(second.request)
    assert not shared.exists()


async def test_a_job_that_is_put_back_keeps_its_audio(queue: JobQueue, uploads: FileStore, cleaner: Cleaner):
    source, begun = upload(uploads), asyncio.Event()

    async def hangs(asked: SongRequest, on_progress: OnProgress, cancelled: Cancelled) -> tuple[Song, ...]:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    runner = Runner(queue, FakeWorker(hangs), cleaner, grace_seconds=0.01)
    receipt = await queue.submit(with_audio(source))
    await runner.start()
    await asyncio.wait_for(begun.wait(), TIMEOUT)
    await runner.stop()
    (view,) = await queue.find([receipt.job_id])
    assert view is not None and view.job.state == "queued"
    assert source.exists()


async def test_an_upload_that_cannot_be_deleted_is_logged(
    uploads: FileStore, cleaner: Cleaner, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def refuse(name: str) -> None:
        raise OSError("read-only")

    monkeypatch.setattr(uploads, "delete", refuse)
    await cleaner.release(with_audio(upload(uploads)))
    assert "cannot be deleted" in caplog.text
