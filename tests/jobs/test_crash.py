"""A server process is killed; the next one goes on with its jobs."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

import acestep
from acestep.data_folder import DataFolder
from acestep.errors import DataFolderInUseError
from acestep.files import AudioStore
from acestep.jobs.model import Job
from acestep.jobs.store import JobStore

JOBS = 20
ROOT = Path(acestep.__file__).parents[1]


@contextmanager
def drill(folder: Path, jobs: int, *options: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.jobs.drill", str(folder), str(jobs), *options]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.002)


def songs_in(folder: Path) -> list[Path]:
    return [path for path in (folder / "audio").glob("*.mp3") if not path.name.startswith(".")]


async def all_jobs(folder: Path) -> list[Job]:
    """Every job in the database, in no particular order."""
    store = JobStore(folder / "jobs.sqlite3")
    with closing(sqlite3.connect(folder / "jobs.sqlite3")) as database:
        ids = [job_id for (job_id,) in database.execute("SELECT id FROM jobs")]
    found = await store.find(ids)
    await store.close()
    return [view.job for view in found if view]


async def test_killed_in_the_middle_every_job_is_done_once(tmp_path: Path):
    with drill(tmp_path, JOBS) as process:
        until(lambda: len(songs_in(tmp_path)) >= 8, process)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    done_before = {job.id: job for job in await all_jobs(tmp_path) if job.state == "succeeded"}
    assert 0 < len(done_before) < JOBS

    with drill(tmp_path, JOBS) as process:
        _, said = process.communicate(timeout=30)
        assert process.returncode == 0, said

    jobs = await all_jobs(tmp_path)
    assert sorted(job.request.caption for job in jobs) == sorted(f"song {number}" for number in range(JOBS))
    assert {job.state for job in jobs} == {"succeeded"}
    files = AudioStore(tmp_path / "audio", b"")
    for job in jobs:
        paths = [files.path(song.file) for song in job.songs]
        expected = [f"{job.request.caption} {seed}" for seed in job.request.seeds]
        assert [path and path.read_text() for path in paths] == expected
    names = [song.file for job in jobs for song in job.songs]
    assert len(set(names)) == len(names) == JOBS * 3 // 2
    assert all(job == done_before.get(job.id, job) for job in jobs)  # what was done was not done again


def test_a_folder_has_one_owner_until_it_is_killed(tmp_path: Path):
    with drill(tmp_path, 1, "--stay") as owner:
        until(lambda: len(songs_in(tmp_path)) > 0, owner)
        with pytest.raises(DataFolderInUseError, match=f"process {owner.pid}.*--workers 1"):
            DataFolder(tmp_path).acquire()
        with drill(tmp_path, 1) as second:
            _, said = second.communicate(timeout=30)
            assert second.returncode == 1
            assert f"is in use by process {owner.pid}" in said
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        with DataFolder(tmp_path):
            pass
