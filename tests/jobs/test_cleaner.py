from __future__ import annotations

import asyncio
import os
import time
from itertools import repeat
from pathlib import Path

import pytest

from acestep.background import BackgroundTasks
from acestep.errors import DataFolderError
from acestep.files import AudioStore
from acestep.jobs.cleaner import Cleaner
from acestep.jobs.queue import JobQueue
from acestep.jobs.runner import Runner
from acestep.jobs.store import JobStore
from tests.jobs.conftest import Clock
from tests.jobs.fakes import FakeWorker, request, with_audio, write_songs
from tests.jobs.jobs_at_work import hangs

HOUR = 3600.0


async def do_job(queue: JobQueue, files: AudioStore) -> tuple[str, list[str]]:
    """Run one job; returns its id and its files."""
    await queue.submit(request(songs=2))
    job = await queue.take()
    songs = write_songs(files, job.request)
    await queue.finish(job.id, songs)
    return job.id, [song.file for song in songs]


async def test_expired_jobs_are_deleted_with_their_files(
    store: JobStore, queue: JobQueue, files: AudioStore, clock: Clock
):
    clock.now = time.time() - 2 * HOUR
    old, old_files = await do_job(queue, files)
    clock.now = time.time()
    new, new_files = await do_job(queue, files)
    await Cleaner(store, files, keep_seconds=HOUR).clean()
    assert [found is not None for found in await queue.find([old, new])] == [False, True]
    assert [files.path(name) for name in old_files] == [None, None]
    assert None not in [files.path(name) for name in new_files]


async def test_zero_keeps_for_ever(store: JobStore, queue: JobQueue, files: AudioStore, clock: Clock):
    clock.now = 0.0
    job_id, names = await do_job(queue, files)
    await Cleaner(store, files, keep_seconds=0).clean()
    assert await queue.find([job_id]) != [None]
    assert None not in [files.path(name) for name in names]


async def test_old_files_that_belong_to_no_job_are_deleted(
    store: JobStore, queue: JobQueue, files: AudioStore, tmp_path: Path
):
    _, kept = await do_job(queue, files)
    orphan, fresh = (write_songs(files, request())[0].file for _ in range(2))
    for name in (*kept, orphan):
        os.utime(tmp_path / "audio" / name, (0, 0))
    await Cleaner(store, files, keep_seconds=0).clean()
    assert files.path(orphan) is None
    assert None not in [files.path(name) for name in (*kept, fresh)]


async def test_songs_of_a_running_job_stay_however_long_it_takes(
    store: JobStore, queue: JobQueue, files: AudioStore, clock: Clock, tmp_path: Path
):
    clock.now = time.time() - 30 * HOUR
    await queue.submit(request(songs=2))
    job = await queue.take()
    songs = write_songs(files, job.request)
    before_it, written = write_songs(files, request())[0].file, songs[0].file
    os.utime(tmp_path / "audio" / written, (0, time.time() - 20 * HOUR))
    os.utime(tmp_path / "audio" / before_it, (0, time.time() - 40 * HOUR))
    await Cleaner(store, files, keep_seconds=HOUR).clean()
    assert (files.path(before_it), files.path(written) is None) == (None, False)
    await queue.finish(job.id, songs)
    await Cleaner(store, files, keep_seconds=100 * HOUR).clean()
    assert files.path(written) is not None


async def test_a_song_that_an_unfinished_job_names_stays(
    store: JobStore, queue: JobQueue, files: AudioStore, clock: Clock, tmp_path: Path
):
    clock.now = time.time() - 2 * HOUR
    made, names = await do_job(queue, files)
    orphan = write_songs(files, request())[0].file  # whose job another database knew
    for name in (*names, orphan):
        os.utime(tmp_path / "audio" / name, (0, 0))
    audio = tmp_path / "audio"
    await queue.submit(with_audio(audio / names[1], audio / orphan))
    cleaner = Cleaner(store, files, keep_seconds=HOUR)
    await cleaner.clean()
    job = await queue.take()
    await cleaner.clean()
    assert None not in [files.path(name) for name in (*names, orphan)]
    await queue.fail(job.id, "no")
    await cleaner.release(job.request)
    await cleaner.clean()
    assert await queue.find([made]) == [None]
    assert [files.path(name) for name in (*names, orphan)] == [None, None, None]


async def test_a_file_that_cannot_be_deleted_is_passed_over(
    store: JobStore,
    queue: JobQueue,
    files: AudioStore,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    clock.now = time.time() - 2 * HOUR
    _, (first, second) = await do_job(queue, files)
    delete = files.delete

    def refuse_one(name: str) -> None:
        if name == first:
            raise OSError("read-only")
        delete(name)

    monkeypatch.setattr(files, "delete", refuse_one)
    await Cleaner(store, files, keep_seconds=HOUR).clean()
    assert files.path(second) is None
    assert f"{first} cannot be deleted" in caplog.text


@pytest.mark.parametrize("error", [DataFolderError("no room"), OSError("no room"), ValueError("no room")])
async def test_a_cleaning_that_fails_is_tried_again(
    store: JobStore, queue: JobQueue, files: AudioStore, monkeypatch: pytest.MonkeyPatch, error: Exception
):
    cleaner, cleaned, calls = Cleaner(store, files, HOUR), asyncio.Event(), 0

    async def clean() -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise error
        cleaned.set()

    monkeypatch.setattr(cleaner, "clean", clean)
    runner = Runner(queue, FakeWorker(hangs), cleaner, tasks=BackgroundTasks(lambda: repeat(0.0)))
    await runner.start()
    await asyncio.wait_for(cleaned.wait(), 5)
    await runner.stop()


@pytest.mark.parametrize(
    ("keep", "interval"), [(60, 6), (300, 30), (600, 60), (3600, 60), (604_800, 60), (0, 600)]
)
def test_jobs_are_kept_a_tenth_too_long_and_a_minute_at_most(
    store: JobStore, files: AudioStore, keep: float, interval: float
):
    assert Cleaner(store, files, keep).interval == interval


async def test_what_expires_between_two_sweeps_is_deleted(
    store: JobStore, queue: JobQueue, files: AudioStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    async def no_sweep() -> None:
        pass

    cleaner = Cleaner(store, files, keep_seconds=0.01)
    monkeypatch.setattr(cleaner, "clean", no_sweep)
    clock.now = time.time() - 1
    old, names = await do_job(queue, files)
    running = asyncio.create_task(cleaner.run())
    async with asyncio.timeout(5):
        while await queue.find([old]) != [None]:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.001)
    running.cancel()
    assert [files.path(name) for name in names] == [None, None]


async def test_the_least_recently_fetched_go_first(store: JobStore, queue: JobQueue, files: AudioStore):
    made = [await do_job(queue, files) for _ in range(4)]
    source = files.path(made[0][1][0])
    assert source is not None
    for age, (_, names) in enumerate(made):
        for path in filter(None, map(files.path, names)):
            path.write_bytes(b"x" * 1000)
            os.utime(path, (1e9 + age, 1e9 + age))
    await queue.submit(with_audio(source))  # the oldest is needed
    fetched = files.path(made[1][1][0])
    assert fetched is not None
    before = fetched.stat().st_mtime_ns
    files.note_fetch(fetched)
    assert fetched.stat().st_mtime_ns == before
    await Cleaner(store, files, keep_seconds=0, keep_bytes=6500).make_room()
    assert [found is not None for found in await queue.find([job for job, _ in made])] == [
        True,
        True,
        False,
        True,
    ]
    await Cleaner(store, files, keep_seconds=0, keep_bytes=2000).make_room()
    left = [name for _, names in made for name in names if files.path(name)]
    assert left == made[0][1]


async def test_no_limit_and_enough_room(store: JobStore, queue: JobQueue, files: AudioStore):
    _, names = await do_job(queue, files)
    for keep_bytes in (0, 1_000_000):
        await Cleaner(store, files, keep_seconds=0, keep_bytes=keep_bytes).make_room()
    assert None not in map(files.path, names)
