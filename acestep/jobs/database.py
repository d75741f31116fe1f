"""The file of the job database: opening it, and noticing that it was damaged, replaced or taken away."""

from __future__ import annotations

import math
import os
import sqlite3
import stat
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from acestep.errors import JobDatabaseError
from acestep.jobs.migrations import check_version, migrate

_AWAY = "move the file away, with those that end with -wal and -shm; the next start makes a new one."
_DAMAGED = f"Stop the server and {_AWAY} Copy the audio folder first: songs without a job are deleted."
_MAY_WRITE = "See that the server may write to it and to its folder"
_NOT_SHARED = "Close the other program that uses it"
_REMEDIES = {
    sqlite3.SQLITE_FULL: "Make room on its disk",
    sqlite3.SQLITE_IOERR: "See that its disk works and has room",
    sqlite3.SQLITE_BUSY: _NOT_SHARED,
    sqlite3.SQLITE_LOCKED: _NOT_SHARED,
    sqlite3.SQLITE_READONLY: _MAY_WRITE,
    sqlite3.SQLITE_PERM: _MAY_WRITE,
    sqlite3.SQLITE_CANTOPEN: _MAY_WRITE,
}
_MAGIC = b"SQLite format 3\0"
_HEADER = struct.Struct(">16sH10xI")  # mark, bytes a page, pages; https://sqlite.org/fileformat2.html


class DatabaseFile:
    """The file of an open database, against what is found under its name now. Thread-safe."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # Kept open as long as the database: to close any descriptor of a file gives up SQLite's locks on it.
        self._descriptor = os.open(path, os.O_RDONLY)
        self._size = os.fstat(self._descriptor).st_size

    def close(self) -> None:
        """After the database is closed."""
        os.close(self._descriptor)

    def check(self) -> None:
        """Raises JobDatabaseError; some microseconds."""
        # SQLite goes on to write into a file that was deleted, and to read pages that it has in memory.
        try:
            named = self._path.stat()
        except OSError:
            raise JobDatabaseError(
                self._path, "was moved or deleted. Put it back, or restart the server."
            ) from None
        opened = os.fstat(self._descriptor)
        if not os.path.samestat(named, opened):
            kind = "another file" if stat.S_ISREG(named.st_mode) else _kind(named.st_mode)
            remedy = "Put the first one back, or move this one away and restart the server."
            raise JobDatabaseError(self._path, f"was replaced by {kind}. {remedy}")
        header = os.pread(self._descriptor, _HEADER.size, 0)
        if opened.st_size < self._size and opened.st_size < _bytes_by(header):
            raise _damaged(self._path, f"{opened.st_size} bytes are left of {self._size}")
        if not header.startswith(_MAGIC):
            raise _damaged(self._path, "file is not a database")
        self._size = opened.st_size  # which also falls where a person has run VACUUM

    def check_pages(self) -> None:
        """Read the whole database from its disk. Raises JobDatabaseError."""
        with translated(self._path), closing(_connect(self._path)) as database:
            _quick_check(self._path, database)


def open_database(path: Path) -> sqlite3.Connection:
    """Raises JobDatabaseError, and DataFolderError if a newer server wrote the database."""
    with translated(path):
        # Autocommit: a statement alone is a transaction, several are where BEGIN says so.
        database = sqlite3.connect(path, isolation_level=None)
        database.row_factory = sqlite3.Row
        database.execute("PRAGMA journal_mode = WAL")
        # In WAL mode a commit is only sure to survive a power cut with FULL, and an accepted job must.
        database.execute("PRAGMA synchronous = FULL")
        migrate(database)
        return database


def check_database(path: Path) -> int | None:
    """Check a database as a start would use it; returns its number of jobs, or None if there is no file.

    Raises as `open_database` does.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise JobDatabaseError(path, f"cannot be used: {error.strerror}. {_MAY_WRITE}.") from error
    if not stat.S_ISREG(found.st_mode):
        raise JobDatabaseError(
            path, f"is {_kind(found.st_mode)}. Move it away; the next start makes a new one."
        )
    if not found.st_size:  # SQLite would begin anew, without a word about the jobs
        raise _damaged(path, "it is empty")
    with translated(path), closing(_connect(path)) as database:
        _quick_check(path, database)
        version = check_version(database)
        (tables,) = database.execute("SELECT COUNT(*) FROM sqlite_master WHERE type = 'table'").fetchone()
        if not version and not tables:
            return 0  # its first start was cut off
        try:
            database.execute("SELECT id, state, request, songs FROM jobs LIMIT 0")
            (jobs,) = database.execute("SELECT COUNT(*) FROM jobs").fetchone()
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", None) != sqlite3.SQLITE_ERROR:
                raise
            raise JobDatabaseError(path, f"is none of this server ({error}). {_AWAY.capitalize()}") from error
    return int(jobs)


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None)


def _quick_check(path: Path, database: sqlite3.Connection) -> None:
    (said,) = database.execute("PRAGMA quick_check(1)").fetchone()
    if said != "ok":
        raise _damaged(path, said.splitlines()[-1])


def _bytes_by(header: bytes) -> float:
    # The size that the header of a database tells.
    if len(header) < _HEADER.size:
        return math.inf
    _, page, pages = _HEADER.unpack(header)
    return float((65536 if page == 1 else page) * pages)


def _damaged(path: Path, what: str) -> JobDatabaseError:
    return JobDatabaseError(path, f"is damaged ({what}). {_DAMAGED}", is_lasting=True)


def _kind(mode: int) -> str:
    return "a folder" if stat.S_ISDIR(mode) else "no regular file"


@contextmanager
def translated(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the rest says where SQLite noticed it
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise _damaged(path, str(error)) from error
        remedy = _REMEDIES.get(code, "See the server's log")
        raise JobDatabaseError(path, f"cannot be used: {error}. {remedy}.") from error
