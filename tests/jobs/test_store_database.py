from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from acestep.errors import JobDatabaseError
from acestep.jobs.store import check_place, open_database, translated
from tests.jobs.outages import damaged

MAY_WRITE = "See that the server may write to it and to its folder."


def failure(code: int) -> sqlite3.Error:
    """An error as SQLite raises it with this code, which may be an extended one."""
    error = sqlite3.OperationalError("it fails")
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        (sqlite3.SQLITE_FULL, "cannot be used: it fails. Make room on its disk."),
        (sqlite3.SQLITE_IOERR_WRITE, "cannot be used: it fails. See that its disk works and has room."),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, "cannot be used: it fails. Close the other program that uses it."),
        (sqlite3.SQLITE_LOCKED, "cannot be used: it fails. Close the other program that uses it."),
        (sqlite3.SQLITE_READONLY_DBMOVED, f"cannot be used: it fails. {MAY_WRITE}"),
        (sqlite3.SQLITE_CANTOPEN, f"cannot be used: it fails. {MAY_WRITE}"),
        (sqlite3.SQLITE_PERM, f"cannot be used: it fails. {MAY_WRITE}"),
        (sqlite3.SQLITE_SCHEMA, "cannot be used: it fails. See the server's log."),
    ],
)
def test_each_error_says_what_to_do(code: int, problem: str):
    with pytest.raises(JobDatabaseError) as told, translated(Path("/data/jobs.sqlite3")):
        raise failure(code)
    assert str(told.value) == f"The job database /data/jobs.sqlite3 {problem}"
    assert told.value.public == f"The job database jobs.sqlite3 {problem}"
    assert not told.value.is_lasting


@pytest.mark.parametrize(
    "code", [sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_CORRUPT_INDEX, sqlite3.SQLITE_NOTADB]
)
def test_damage_lasts(code: int):
    with pytest.raises(JobDatabaseError, match=r"is damaged .*\.") as told, translated(Path("jobs.sqlite3")):
        raise failure(code)
    assert "the next start makes a new one" in str(told.value)
    assert told.value.is_lasting


@pytest.mark.parametrize("kind", [sqlite3.DatabaseError, sqlite3.ProgrammingError, sqlite3.InterfaceError])
def test_an_error_without_a_code_is_told_too(kind: type[sqlite3.Error]):
    with pytest.raises(JobDatabaseError) as told, translated(Path("jobs.sqlite3")):
        raise kind("odd")
    assert str(told.value) == "The job database jobs.sqlite3 cannot be used: odd. See the server's log."


def test_a_file_that_is_no_database_is_refused(tmp_path: Path):
    (tmp_path / "noise").write_bytes(b"noise" * 1000)
    with pytest.raises(JobDatabaseError, match=r"noise is damaged \(file is not a database\)"):
        open_database(tmp_path / "noise")


def test_a_folder_that_is_missing_is_refused(tmp_path: Path):
    with pytest.raises(JobDatabaseError, match=f"unable to open database file. {MAY_WRITE}"):
        open_database(tmp_path / "missing" / "jobs.sqlite3")


async def test_a_damaged_table_is_noticed_when_it_is_read(tmp_path: Path):
    await damaged(tmp_path / "jobs.sqlite3")
    database = open_database(tmp_path / "jobs.sqlite3")
    with pytest.raises(JobDatabaseError, match="malformed") as told, translated(tmp_path / "jobs.sqlite3"):
        database.execute("SELECT * FROM jobs").fetchall()
    assert told.value.is_lasting
    database.close()


def test_a_file_has_its_place(tmp_path: Path):
    (tmp_path / "jobs.sqlite3").touch()
    check_place(tmp_path / "jobs.sqlite3")
    with pytest.raises(JobDatabaseError, match=r"other was moved or deleted\. Put it back"):
        check_place(tmp_path / "other")
