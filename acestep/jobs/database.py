"""Opens the job database, and says what to do where SQLite cannot use it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from acestep.errors import JobDatabaseError
from acestep.jobs.migrations import migrate

_DAMAGED = (
    "Stop the server and move the file away, with those that end with -wal and -shm; the next start makes a "
    "new one. Copy the audio folder first: songs without a job are deleted."
)
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


@contextmanager
def translated(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the rest says where SQLite noticed it
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise JobDatabaseError(path, f"is damaged ({error}). {_DAMAGED}", is_lasting=True) from error
        remedy = _REMEDIES.get(code, "See the server's log")
        raise JobDatabaseError(path, f"cannot be used: {error}. {remedy}.") from error


def check_place(path: Path) -> None:
    # SQLite goes on to write into a file that was deleted.
    if not path.exists():
        raise JobDatabaseError(path, "was moved or deleted. Put it back, or restart the server.")
