from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from acestep.errors import DataFolderError, JobDatabaseError
from acestep.jobs.database import check_database, open_database, translated
from acestep.jobs.store import JobStore
from tests.jobs.fakes import submit
from tests.jobs.outages import damaged, overwrite

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


def write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def cut(path: Path, left: float) -> None:
    os.truncate(path, int(path.stat().st_size * left))


def replace(path: Path) -> None:
    path.with_suffix(".new").write_bytes(path.read_bytes())
    path.with_suffix(".new").replace(path)


def become_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def become_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def other_program(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE notes (text TEXT)")
        database.execute("PRAGMA user_version = 2")


def newer(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("PRAGMA user_version = 99")


class TestWhileItIsOpen:
    @pytest.mark.parametrize(
        ("harm", "said"),
        [
            (
                lambda path: write(path, b"garbage"),
                r"is damaged \(7 bytes are left of \d+\)\. Stop the server",
            ),
            (lambda path: write(path, b"noise" * 50_000), r"is damaged \(file is not a database\)"),
            (lambda path: cut(path, 0), r"is damaged \(0 bytes are left of \d+\)"),
            (lambda path: cut(path, 0.5), r"is damaged \(\d+ bytes are left of \d+\)"),
            (Path.unlink, r"was moved or deleted\. Put it back, or restart the server\."),
            (become_a_folder, r"was replaced by a folder\. Put the first one back"),
            (become_a_pipe, r"was replaced by no regular file\."),
            (replace, r"was replaced by another file\."),
        ],
    )
    async def test_harm_is_noticed_without_reading_a_page(self, tmp_path: Path, harm, said: str):
        path, store = tmp_path / "jobs.sqlite3", await filled(tmp_path)
        await store.inspect(pages=False)
        harm(path)
        with pytest.raises(JobDatabaseError, match=said) as told:
            await store.inspect(pages=False)
        assert (store.damage is told.value) == ("is damaged" in said)
        for call in (store.check, lambda: submit(store)):
            with pytest.raises(JobDatabaseError, match=said):
                await call()
        await store.close()

    async def test_spoilt_pages_are_found_by_reading_them(self, tmp_path: Path):
        path, store = tmp_path / "jobs.sqlite3", await filled(tmp_path)
        await store.inspect(pages=True)
        overwrite(path)
        with pytest.raises(JobDatabaseError, match=r"is damaged \("):
            await store.inspect(pages=True)
        assert store.damage is not None
        await store.close()

    async def test_what_is_no_harm(self, tmp_path: Path):
        path, store = tmp_path / "jobs.sqlite3", await filled(tmp_path)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("DELETE FROM jobs")
            other.execute("VACUUM")
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        await store.inspect(pages=True)
        for _ in range(3):
            await submit(store, "la " * 100_000)
            await store.inspect(pages=True)
        await store.close()

    async def test_a_link_to_a_database_is_none_either(self, tmp_path: Path):
        (tmp_path / "elsewhere").touch()
        (tmp_path / "jobs.sqlite3").symlink_to(tmp_path / "elsewhere")
        store = await filled(tmp_path)
        await store.inspect(pages=True)
        await store.close()

    async def test_its_own_locks_outlive_a_look(self, tmp_path: Path):
        path, store = tmp_path / "jobs.sqlite3", await filled(tmp_path)
        await store.inspect(pages=True)
        code = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('PRAGMA journal_mode = DELETE')"
        other = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, path, stderr=asyncio.subprocess.PIPE
        )
        _, said = await other.communicate()
        assert b"database is locked" in said  # another program sees that it is in use
        await store.close()


async def filled(folder: Path) -> JobStore:
    """A store whose jobs are in the file itself, not only in its log (-wal)."""
    store = JobStore(folder / "jobs.sqlite3")
    for _ in range(3):
        await submit(store, "la " * 10_000)
    await store.close()
    return JobStore(folder / "jobs.sqlite3")


class TestBeforeAStart:
    async def test_a_whole_database_tells_its_jobs(self, tmp_path: Path):
        path = tmp_path / "jobs.sqlite3"
        assert check_database(path) is None
        store = await filled(tmp_path)
        assert check_database(path) == 3  # in use, too
        await store.close()
        assert check_database(path) == 3

    def test_a_first_start_that_was_cut_off_is_none(self, tmp_path: Path):
        with closing(sqlite3.connect(tmp_path / "jobs.sqlite3")) as database:
            database.execute("PRAGMA journal_mode = WAL")
        assert check_database(tmp_path / "jobs.sqlite3") == 0

    @pytest.mark.parametrize(
        ("harm", "said"),
        [
            (lambda path: write(path, b"garbage" * 1000), r"is damaged \(file is not a database\)\. Stop"),
            (lambda path: cut(path, 0), r"is damaged \(it is empty\)\. Stop"),
            (lambda path: cut(path, 0.5), r"is damaged \(.*\)\. Stop"),
            (overwrite, r"is damaged \(.*\)\. Stop"),
            (become_a_folder, r"is a folder\. Move it away; the next start makes a new one\."),
            (become_a_pipe, r"is no regular file\. Move it away"),
            (other_program, r"is none of this server \(no such table: jobs\)\. Move the file away"),
            (newer, "has schema 99, but this server knows only"),
        ],
    )
    async def test_harm_is_one_sentence(self, tmp_path: Path, harm, said: str):
        await (await filled(tmp_path)).close()
        harm(tmp_path / "jobs.sqlite3")
        with pytest.raises(DataFolderError, match=said) as told:
            check_database(tmp_path / "jobs.sqlite3")
        assert "\n" not in str(told.value)
