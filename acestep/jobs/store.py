"""Jobs in SQLite: the only place with SQL."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Callable, Collection, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import wraps
from itertools import chain, islice
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar
from uuid import uuid4

from pydantic import TypeAdapter, ValidationError

from acestep.domain.song import Song, SongRequest, TaskOptions
from acestep.errors import InvalidFieldError, JobDatabaseError
from acestep.jobs.database import DatabaseFile, open_database, translated
from acestep.jobs.model import Claim, Job, JobState, JobView, Receipt

EXPIRE_AT_ONCE = 100  # jobs; deleting their files takes some milliseconds, in which requests wait
MAX_ATTEMPTS = 2  # starts; a job that was running when the server died may have been the cause

INTERRUPTED = (
    "The server stopped twice while this job was running, so it was given up. Submit it again, "
    "perhaps with a shorter duration or fewer songs."
)
UNREADABLE = (
    "This job was stored by another version of the server, which this one cannot read. Submit it again."
)

_REQUEST = TypeAdapter(SongRequest)
_SONGS = TypeAdapter(tuple[Song, ...])

P = ParamSpec("P")
T = TypeVar("T")


def _on_store_thread(
    method: Callable[Concatenate[JobStore, P], T],
) -> Callable[Concatenate[JobStore, P], Coroutine[Any, Any, T]]:
    @wraps(method)
    async def call(self: JobStore, /, *args: P.args, **kwargs: P.kwargs) -> T:
        def work() -> T:
            with translated(self._path):
                return method(self, *args, **kwargs)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except JobDatabaseError as error:
            self._note(error)
            raise

    return call


class JobStore:
    """The job table, used on one thread. All methods raise JobDatabaseError where SQLite fails."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="jobs")
        self._db = self._thread.submit(open_database, path).result()
        self._file = DatabaseFile(path)
        self.damage: JobDatabaseError | None = None  # lasts until a restart

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._db.close)
        self._file.close()
        self._thread.shutdown()

    async def inspect(self, pages: bool) -> None:
        """Look whether the file is whole; with `pages`, read it all, which takes longer the larger it is."""
        try:
            self._file.check()
            if pages:
                await asyncio.to_thread(self._file.check_pages)
        except JobDatabaseError as error:
            self._note(error)
            raise

    def _note(self, error: JobDatabaseError) -> None:
        if error.is_lasting:
            self.damage = error

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            yield

    @_on_store_thread
    def submit(self, request: SongRequest, max_waiting: int) -> Receipt | None:
        """None if `max_waiting` (0: any number) are queued. Raises InvalidFieldError for missing audio."""
        # Files are deleted on this thread too, so one that exists now stays until the job has ended.
        _check_audio(request.task)
        self._file.check()
        job_id = str(uuid4())
        with self._transaction():
            (queued,) = self._db.execute("SELECT COUNT(*) FROM jobs WHERE state = 'queued'").fetchone()
            if 0 < max_waiting <= queued:
                return None
            self._db.execute(
                "INSERT INTO jobs (id, state, request, created_at) VALUES (?, 'queued', ?, ?)",
                (job_id, _REQUEST.dump_json(request).decode(), self._clock()),
            )
        return Receipt(job_id, queued + 1)

    @_on_store_thread
    def claim(self, models: Collection[str | None] = ()) -> Claim | None:
        """Mark the oldest job for one of `models` (None: no model named) as running, or else the oldest."""
        with self._transaction():
            while row := self._next_row(models):
                job = _job(row)
                if job.state == "running":
                    return Claim(job, is_oldest=self._is_oldest(row["seq"]))
                self._end(job.id, "failed", error=job.error)
        return None

    def _next_row(self, models: Collection[str | None]) -> sqlite3.Row | None:
        names = json.dumps([model for model in models if model is not None])
        rows = self._db.execute(
            "UPDATE jobs SET state = 'running', started_at = ?, attempts = attempts + 1 WHERE seq ="
            " (SELECT seq FROM jobs WHERE state = 'queued' ORDER BY CASE WHEN json_valid(request) THEN"
            " COALESCE(json_extract(request, '$.model') IN (SELECT value FROM json_each(?)), ?) END DESC,"
            " seq LIMIT 1) RETURNING *",
            (self._clock(), names, None in models),
        ).fetchall()
        return rows[0] if rows else None

    def _is_oldest(self, seq: int) -> bool:
        (older,) = self._db.execute(
            "SELECT EXISTS (SELECT 1 FROM jobs WHERE state = 'queued' AND seq < ?)", (seq,)
        ).fetchone()
        return not older

    @_on_store_thread
    def finish(self, job_id: str, songs: tuple[Song, ...]) -> None:
        self._end(job_id, "succeeded", songs=_SONGS.dump_json(songs).decode())

    @_on_store_thread
    def fail(self, job_id: str, error: str) -> None:
        self._end(job_id, "failed", error=error)

    def _end(self, job_id: str, state: JobState, songs: str = "[]", error: str | None = None) -> None:
        # Only a running job can end: a late report of a stopped or cancelled one changes nothing.
        self._db.execute(
            "UPDATE jobs SET state = :state, songs = :songs, error = :error, finished_at = :now,"
            " work_seconds = MAX(0, :now - started_at) WHERE id = :id AND state = 'running'",
            {"state": state, "songs": songs, "error": error, "now": self._clock(), "id": job_id},
        )

    @_on_store_thread
    def release_running(self) -> int:
        """Queue the running jobs again as if they had never started; returns how many."""
        return self._db.execute(
            "UPDATE jobs SET state = 'queued', started_at = NULL, attempts = attempts - 1"
            " WHERE state = 'running'"
        ).rowcount

    @_on_store_thread
    def recover(self) -> tuple[int, int]:
        """Queue again what a dead server left running, or fail it after MAX_ATTEMPTS; returns both counts."""
        with self._transaction():
            failed = self._db.execute(
                "UPDATE jobs SET state = 'failed', error = ?, finished_at = ?"
                " WHERE state = 'running' AND attempts >= ?",
                (INTERRUPTED, self._clock(), MAX_ATTEMPTS),
            ).rowcount
            requeued = self._db.execute(
                "UPDATE jobs SET state = 'queued', started_at = NULL WHERE state = 'running'"
            ).rowcount
        return requeued, failed

    @_on_store_thread
    def check(self) -> None:
        # Rewrites a number in the file's header, so that a disk that takes no writes is noticed.
        self._file.check()
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        self._db.execute(f"PRAGMA user_version = {version}")

    @_on_store_thread
    def find(self, ids: Sequence[str]) -> list[JobView | None]:
        rows = self._db.execute(
            "SELECT *, CASE WHEN state = 'queued' THEN"
            " (SELECT COUNT(*) FROM jobs AS other WHERE other.state = 'queued' AND other.seq <= jobs.seq)"
            " END AS position FROM jobs WHERE id IN (SELECT value FROM json_each(?))",
            (json.dumps(ids),),
        )
        views = {row["id"]: JobView(_job(row), row["position"]) for row in rows}
        return [views.get(job_id) for job_id in ids]

    @_on_store_thread
    def counts(self) -> dict[JobState, int]:
        return dict(self._db.execute("SELECT state, COUNT(*) FROM jobs GROUP BY state").fetchall())

    @_on_store_thread
    def average_seconds(self, window: int, default: float) -> float:
        (average,) = self._db.execute(
            "SELECT AVG(work_seconds) FROM (SELECT work_seconds FROM jobs WHERE state = 'succeeded'"
            " ORDER BY finished_at DESC LIMIT ?)",
            (window,),
        ).fetchone()
        return default if average is None else float(average)

    @_on_store_thread
    def expire(self, before: float, delete: Callable[[str], None]) -> int:
        """Delete EXPIRE_AT_ONCE jobs that ended before that time, and their files; returns how many."""
        with self._transaction():
            rows = self._db.execute(
                "SELECT seq, songs FROM jobs WHERE state IN ('succeeded', 'failed', 'cancelled')"
                " AND finished_at < ? ORDER BY seq",
                (before,),
            )
            files = ((row["seq"], _files_in(row["songs"])) for row in rows)
            # A job stays as long as a queued or running one needs a file of it.
            unneeded = ((seq, names) for seq, names in files if not any(map(self._is_needed, names)))
            expired = dict(islice(unneeded, EXPIRE_AT_ONCE))
            self._db.execute(
                "DELETE FROM jobs WHERE seq IN (SELECT value FROM json_each(?))", (json.dumps([*expired]),)
            )
        for name in chain.from_iterable(expired.values()):
            delete(name)
        return len(expired)

    @_on_store_thread
    def delete_unneeded(self, name: str, delete: Callable[[str], None]) -> bool:
        """Delete a file unless a queued or running job needs it; returns whether it was deleted."""
        if self._is_needed(name):
            return False
        delete(name)
        return True

    def _is_needed(self, name: str) -> bool:
        # File names are unique, so it does not matter where in a request one stands.
        (needed,) = self._db.execute(
            "SELECT EXISTS (SELECT 1 FROM jobs WHERE state IN ('queued', 'running') AND instr(request, ?))",
            (name,),
        ).fetchone()
        return bool(needed)

    @_on_store_thread
    def files(self) -> set[str]:
        rows = self._db.execute("SELECT songs FROM jobs WHERE songs != '[]'")
        return {file for (songs,) in rows for file in _files_in(songs)}

    @_on_store_thread
    def oldest_start(self) -> float | None:
        (started,) = self._db.execute("SELECT MIN(started_at) FROM jobs WHERE state = 'running'").fetchone()
        return None if started is None else float(started)


def _check_audio(task: TaskOptions) -> None:
    for upload, path in (("src_audio", task.source), ("reference_audio", task.reference)):
        if path and not Path(path).is_file():
            raise InvalidFieldError(
                f"{upload}_path",
                Path(path).name,
                "a file that is still there",
                f"It was deleted while the request was read. Upload it as {upload}",
            )


def _files_in(songs: str) -> list[str]:
    try:
        return [file for song in json.loads(songs) for file in _files_of(song)]
    except (ValueError, TypeError, KeyError, AttributeError):  # another version wrote it
        return []


def _files_of(song: dict[str, Any]) -> list[str]:
    # A song that is only a plan has no file, and one of an older version no analysis.
    stems = song.get("analysis", {}).get("stems", ())
    return [file for file in (song["file"], *(stem["file"] for stem in stems)) if file]


def _job(row: sqlite3.Row) -> Job:
    state, error = row["state"], row["error"]
    try:
        request, songs = _REQUEST.validate_json(row["request"]), _SONGS.validate_json(row["songs"])
    except ValidationError:  # another version wrote it
        state, error, request, songs = "failed", UNREADABLE, SongRequest(), ()
    return Job(
        id=row["id"],
        state=state,
        request=request,
        created_at=row["created_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        attempts=row["attempts"],
        error=error,
        songs=songs,
        work_seconds=row["work_seconds"],
    )
