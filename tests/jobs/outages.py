"""Databases that are damaged, or refuse for a while."""

from __future__ import annotations

import asyncio
import resource
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from acestep.domain.song import SongRequest
from acestep.jobs.store import JobStore

T = TypeVar("T")

PAGE = 4096  # bytes


async def on_store_thread(store: JobStore, work: Callable[[sqlite3.Connection], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(store._thread, work, store._db)


async def pragma(store: JobStore, text: str) -> object:
    """A setting of the store's own connection, which alone shows it and alone is bound by it."""
    return await on_store_thread(
        store, lambda database: (database.execute(f"PRAGMA {text}").fetchone() or [0])[0]
    )


def overwrite(path: Path) -> None:
    """Spoil all of a database but its schema; it is never shorter meanwhile."""
    with closing(sqlite3.connect(path)) as database:
        schema = {
            page for (page,) in database.execute("SELECT pageno FROM dbstat WHERE name = 'sqlite_schema'")
        }
    pages = path.stat().st_size // PAGE
    with path.open("r+b") as file:
        for page in {*range(1, pages + 1)} - schema:
            file.seek((page - 1) * PAGE)
            file.write(bytes([0xFF]) * PAGE)


async def damaged(path: Path) -> str:
    """Make a database that can be opened and whose table cannot be read; returns the id of its only job."""
    store = JobStore(path)
    receipt = await store.submit(SongRequest(lyrics="la " * 10_000), max_waiting=0)
    await store.close()
    overwrite(path)
    assert receipt is not None
    return receipt.job_id


Outage = Callable[[JobStore, Path], AbstractContextManager[str]]
"""Makes the store's writes fail for a while; gives what the error says."""


@contextmanager
def locked(store: JobStore, path: Path) -> Iterator[str]:
    store._thread.submit(store._db.execute, "PRAGMA busy_timeout = 0").result()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield "database is locked. Close the other program that uses it."


@contextmanager
def read_only(store: JobStore, path: Path) -> Iterator[str]:
    store._thread.submit(store._db.execute, "PRAGMA query_only = ON").result()
    try:
        yield "attempt to write a readonly database. See that the server may write to it and to its folder."
    finally:
        store._thread.submit(store._db.execute, "PRAGMA query_only = OFF").result()


@contextmanager
def without_room(store: JobStore, path: Path) -> Iterator[str]:
    """As on a full disk: no file of this process may grow."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.with_name(f"{path.name}-wal").stat().st_size, limits[1]))
    try:
        yield "disk I/O error. See that its disk works and has room."
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


OUTAGES: tuple[Outage, ...] = (locked, read_only, without_room)
each_outage = pytest.mark.parametrize("outage", OUTAGES, ids=[outage.__name__ for outage in OUTAGES])
