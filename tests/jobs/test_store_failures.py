from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from acestep.errors import DataFolderError, JobDatabaseError
from acestep.jobs.model import Lease
from acestep.jobs.store import JobStore
from tests.jobs.fakes import claim, edit, request, song, submit, view
from tests.jobs.outages import Outage, damaged, each_outage, pragma


def move(path: Path, to: Path) -> None:
    path.rename(to)


class FailingDatabase:
    """A connection whose statement or commit number `fails_at` fails."""

    def __init__(self, database: sqlite3.Connection, fails_at: int) -> None:
        self._database = database
        self._left = fails_at

    def execute(self, *statement: Any) -> sqlite3.Cursor:
        self._count()
        return self._database.execute(*statement)

    def executemany(self, *statement: Any) -> sqlite3.Cursor:
        self._count()
        return self._database.executemany(*statement)

    def _count(self) -> None:
        self._left -= 1
        if self._left == 0:
            raise sqlite3.OperationalError("disk I/O error")

    def __enter__(self) -> None:
        self._database.__enter__()

    def __exit__(self, *error: Any) -> None:
        try:
            if error[0] is None:
                self._count()
        except sqlite3.OperationalError as failed:
            self._database.__exit__(type(failed), failed, None)
            raise
        self._database.__exit__(*error)


Change = Callable[[JobStore], Awaitable[object]]
# Of six jobs "queued" is the oldest that is queued, and cannot be read.
CHANGES: dict[str, Change] = {
    "submit": lambda store: store.submit(request(), max_waiting=100),
    "claim": lambda store: store.claim(),
    "claim for a model": lambda store: store.claim(["near"]),
    "finish": lambda store: store.finish(Lease("running", 1), (song("a.mp3"),)),
    "fail": lambda store: store.fail(Lease("running", 1), "no"),
    "release": lambda store: store.release([Lease("running", 1)]),
    "reclaim": lambda store: store.reclaim(alone=True),
    "begin": lambda store: store.begin(Lease("running", 1)),
    "renew": lambda store: store.renew([Lease("running", 1), Lease("died often", 5)]),
    "cancel": lambda store: store.cancel("queued"),
    "cancel a running one": lambda store: store.cancel("running"),
    "end_cancelled": lambda store: store.end_cancelled(Lease("cancelling", 1)),
    "delete": lambda store: store.delete("ended", lambda name: None),
    "expire": lambda store: store.expire(10.0**12, lambda name: None),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_a_change_that_fails_anywhere_has_changed_nothing(
    store: JobStore, path: Path, monkeypatch: pytest.MonkeyPatch, change: Change
):
    for name, sql in {
        "ended": "state = 'succeeded', finished_at = 1",
        "died often": "state = 'running', token = 5, has_begun = 1, deaths = 4",
        "running": "state = 'running', token = 1",
        "cancelling": "state = 'running', token = 1, is_cancelling = 1",
        "queued": 'request = \'{"task_type": "dance"}\'',
        "near": "request = json_set(request, '$.model', 'near')",
    }.items():
        edit(path, f"UPDATE jobs SET id = ?, {sql} WHERE id = ?", name, await submit(store))

    def rows() -> list[Any]:
        with closing(sqlite3.connect(path)) as database:
            return database.execute("SELECT * FROM jobs").fetchall()

    before, whole = rows(), store._db
    for fails_at in count(1):
        failing = FailingDatabase(whole, fails_at)
        monkeypatch.setattr(store, "_db", failing)
        try:
            await change(store)
        except DataFolderError:
            assert rows() == before, f"statement {fails_at}"
        else:
            break
    monkeypatch.setattr(store, "_db", whole)
    assert fails_at > 1
    assert rows() != before


class TestRefusal:
    async def test_a_full_disk_changes_nothing(self, store: JobStore, path: Path):
        job_id = await submit(store)
        limit = await pragma(store, "page_count")
        await pragma(store, f"max_page_count = {limit}")
        big = replace(request(), lyrics="la " * 100_000)
        with pytest.raises(JobDatabaseError, match=f"{path} cannot be used: .*full. Make room on its disk."):
            await store.submit(big, max_waiting=0)
        await pragma(store, "max_page_count = 1000000")
        assert await store.submit(big, max_waiting=0) is not None
        assert (await view(store, job_id)).position == 1
        assert await store.counts() == {"queued": 2}

    @each_outage
    async def test_every_method_raises(self, store: JobStore, path: Path, outage: Outage):
        job_id, ended, _ = [await submit(store) for _ in range(3)]
        for _ in range(2):
            await claim(store)
        await store.fail(Lease(ended, 1), "no")
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "submit": lambda: store.submit(request(), max_waiting=0),
            "claim": store.claim,
            "finish": lambda: store.finish(Lease(job_id, 1), ()),
            "fail": lambda: store.fail(Lease(job_id, 1), "no"),
            "release": lambda: store.release([Lease(job_id, 1)]),
            "reclaim": lambda: store.reclaim(alone=True),
            "expire": lambda: store.expire(10.0**12, lambda name: None),
            "check": store.check,
        }
        with outage(store, path) as sentence:
            for name, call in calls.items():
                with pytest.raises(JobDatabaseError) as refused:
                    await call()
                    raise AssertionError(name)
                assert str(refused.value) == f"The job database {path} cannot be used: {sentence}"
                assert refused.value.public == f"The job database jobs.sqlite3 cannot be used: {sentence}"
        await store.check()
        assert await store.counts() == {"running": 1, "queued": 1, "failed": 1}
        assert store.damage is None

    @pytest.mark.parametrize("method", ["submit", "claim", "find", "files"])
    async def test_damage_is_remembered(self, tmp_path: Path, path: Path, method: str):
        job_id = await damaged(path)
        store = JobStore(path)
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "submit": lambda: store.submit(request(), max_waiting=0),
            "claim": store.claim,
            "find": lambda: store.find([job_id]),
            "files": store.files,
        }
        with pytest.raises(
            JobDatabaseError, match=r"jobs.sqlite3 is damaged \(.*\). Stop the server"
        ) as told:
            await calls[method]()
        assert store.damage is told.value
        await store.close()

    async def test_a_file_that_is_gone_takes_no_jobs_until_it_is_back(self, store: JobStore, path: Path):
        away = path.with_suffix(".away")
        calls: list[Callable[[], Awaitable[object]]] = [store.check, lambda: store.submit(request(), 0)]
        move(path, away)
        for call in calls:
            with pytest.raises(JobDatabaseError, match=r"was moved or deleted\. Put it back"):
                await call()
        move(away, path)
        for call in calls:
            await call()
        assert await store.counts() == {"queued": 1}
