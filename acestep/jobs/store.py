"""Jobs in SQLite: the only place with SQL."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Callable, Collection, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial, wraps
from itertools import chain
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar
from uuid import uuid4

from acestep.domain.song import Song, SongRequest, TaskOptions
from acestep.errors import InvalidFieldError, JobDatabaseError
from acestep.jobs.database import DatabaseFile, open_database, translated
from acestep.jobs.eta import Speeds, work_of
from acestep.jobs.expiry import files_of_jobs, is_needed, remove_ended, remove_one
from acestep.jobs.history import (
    REQUEST,
    SONGS,
    add_hook,
    average_seconds,
    events_after,
    job_of,
    last_number,
    learn,
    newest,
    note,
    note_songs,
    note_submission,
    views,
    waiting,
)
from acestep.jobs.model import Claim, Hook, JobEvent, JobState, JobView, Lease, Once, Receipt, Renewal

MAX_DEATHS = 5  # of servers that were making the songs of a job, which may be the cause
LEASE_SECONDS = 15.0  # that a job stays with a server of which nothing is heard

INTERRUPTED = (
    "The server died {deaths} times while it made the songs of this job, so it was given up. Submit it "
    "again, perhaps with a shorter duration or fewer songs."
)
CANCELLED = "The job was cancelled."

Removal = Callable[[sqlite3.Connection], Sequence[Sequence[str]]]  # removes jobs; returns the files of each

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

    def __init__(
        self,
        path: Path,
        clock: Callable[[], float] = time.time,
        max_deaths: int = MAX_DEATHS,
        assumed_seconds: float = 5.0,
    ) -> None:
        """`assumed_seconds` are those of a job before any was done."""
        self._path = path
        self._clock = clock
        self._max_deaths = max_deaths
        self._assumed_seconds = assumed_seconds
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="jobs")
        self._db = self._thread.submit(open_database, path).result()
        self._file = DatabaseFile(path)
        self._speeds = Speeds(assumed_seconds)
        self._thread.submit(learn, self._db, self._speeds).result()
        self.damage: JobDatabaseError | None = None  # lasts until a restart

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._db.close)
        self._file.close()
        self._thread.shutdown()

    def now(self) -> float:
        return self._clock()

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
    def submit(
        self,
        request: SongRequest,
        max_waiting: int,
        busy: float = 0.0,
        once: Once | None = None,
        hook: Hook | None = None,
    ) -> Receipt | None:
        """None if `max_waiting` (0: any number) are queued. Raises InvalidFieldError for missing audio."""
        # `busy` are the seconds until the running jobs end.
        # Files are deleted on this thread too, so one that exists now stays until the job has ended.
        _check_audio(request.task)
        self._file.check()
        job_id, now, work = str(uuid4()), self._clock(), work_of(request)
        with self._transaction():
            (queued,) = self._db.execute("SELECT COUNT(*) FROM jobs WHERE state = 'queued'").fetchone()
            if 0 < max_waiting <= queued:
                return None
            self._db.execute(
                "INSERT INTO jobs (id, state, request, created_at, work) VALUES (?, 'queued', ?, ?, ?)",
                (job_id, REQUEST.dump_json(request).decode(), now, json.dumps(work)),
            )
            if hook is not None:
                add_hook(self._db, job_id, hook)
            note(self._db, [job_id], "queued", now, position=queued + 1)
            position, seconds = waiting(self._db, self._speeds)[job_id]
            receipt = Receipt(job_id, position, busy + seconds)
            if once is not None:
                note_submission(self._db, once, receipt, now)
        return receipt

    @_on_store_thread
    def call(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do `work` in a transaction of its own."""
        with self._transaction():
            return work(self._db)

    @_on_store_thread
    def claim(self, models: Collection[str | None] = ()) -> Claim | None:
        """Lease the oldest job for one of `models` (None: no model named), or else the oldest."""
        with self._transaction():
            while row := self._next_row(models):
                job = job_of(row)
                if job.state == "running":
                    note(self._db, [job.id], "started", self._clock(), attempt=job.attempts)
                    seconds = self._speeds.seconds(work_of(job.request))
                    return Claim(job, self._is_oldest(row["seq"]), seconds)
                self._end(job.lease, "failed", error=job.error)
        return None

    def _next_row(self, models: Collection[str | None]) -> sqlite3.Row | None:
        names, now = json.dumps([model for model in models if model is not None]), self._clock()
        rows = self._db.execute(
            "UPDATE jobs SET state = 'running', started_at = ?, attempts = attempts + 1, token = token + 1,"
            " has_begun = 0, lease_until = ? WHERE seq ="
            " (SELECT seq FROM jobs WHERE state = 'queued' ORDER BY CASE WHEN json_valid(request) THEN"
            " COALESCE(json_extract(request, '$.model') IN (SELECT value FROM json_each(?)), ?) END DESC,"
            " seq LIMIT 1) RETURNING *",
            (now, now + LEASE_SECONDS, names, None in models),
        ).fetchall()
        return rows[0] if rows else None

    def _is_oldest(self, seq: int) -> bool:
        (older,) = self._db.execute(
            "SELECT EXISTS (SELECT 1 FROM jobs WHERE state = 'queued' AND seq < ?)", (seq,)
        ).fetchone()
        return not older

    @_on_store_thread
    def begin(self, lease: Lease) -> None:
        """Note the first step of progress: from now on, the death of its server counts for the job."""
        self._db.execute("UPDATE jobs SET has_begun = 1 WHERE id = ? AND token = ?", lease)

    @_on_store_thread
    def note_song(self, lease: Lease, number: int, song: Song) -> bool:
        """Note a finished song of a job that goes on; False where the lease is not valid."""
        with self._transaction():
            held = self._db.execute(
                "SELECT 1 FROM jobs WHERE id = ? AND token = ? AND state = 'running'", lease
            ).fetchone()
            if held:
                note_songs(self._db, lease.job_id, [(number, song)], self._clock())
        return held is not None

    @_on_store_thread
    def renew(self, leases: Sequence[Lease]) -> Renewal:
        """Keep leases for LEASE_SECONDS more, also late ones, as long as nothing else has the job."""
        with self._transaction():
            rows = self._db.execute(
                "UPDATE jobs SET lease_until = ? FROM json_each(?) AS held WHERE jobs.state = 'running'"
                " AND jobs.id = json_extract(held.value, '$[0]')"
                " AND jobs.token = json_extract(held.value, '$[1]') RETURNING id, is_cancelling",
                (self._clock() + LEASE_SECONDS, json.dumps(leases)),
            ).fetchall()
        kept = {row["id"] for row in rows}
        return Renewal(
            lost=tuple(lease.job_id for lease in leases if lease.job_id not in kept),
            cancelling=tuple(row["id"] for row in rows if row["is_cancelling"]),
        )

    @_on_store_thread
    def finish(self, lease: Lease, songs: tuple[Song, ...]) -> bool:
        """False, with nothing changed, where the lease is not valid; so do `fail` and `end_cancelled`."""
        with self._transaction():
            is_held = self._end(lease, "succeeded", songs)
        if is_held:
            learn(self._db, self._speeds, lease.job_id)
        return is_held

    @_on_store_thread
    def fail(self, lease: Lease, error: str) -> bool:
        with self._transaction():
            return self._end(lease, "failed", error=error)

    @_on_store_thread
    def end_cancelled(self, lease: Lease) -> bool:
        with self._transaction():
            return self._end(lease, "cancelled", error=CANCELLED)

    def _end(
        self, lease: Lease, state: JobState, songs: tuple[Song, ...] = (), error: str | None = None
    ) -> bool:
        # Only a running job can end: a late report of a stopped or cancelled one changes nothing.
        now = self._clock()
        ended = self._db.execute(
            "UPDATE jobs SET state = ?, songs = ?, error = ?, finished_at = ?, lease_until = NULL,"
            " work_seconds = MAX(0, ? - started_at), is_cancelling = 0"
            " WHERE id = ? AND token = ? AND state = 'running'",
            (state, SONGS.dump_json(songs).decode(), error, now, now, *lease),
        ).rowcount
        if not ended:
            return False
        note_songs(self._db, lease.job_id, enumerate(songs), now)
        note(self._db, [lease.job_id], state, now, error=error)
        return True

    @_on_store_thread
    def cancel(self, job_id: str) -> JobView | None:
        """Cancel a queued job, and mark a running one; what has ended stays as it is. None: not known."""
        with self._transaction():
            cancelled = self._db.execute(
                "UPDATE jobs SET state = 'cancelled', error = ?, finished_at = ?"
                " WHERE id = ? AND state = 'queued'",
                (CANCELLED, self._clock(), job_id),
            ).rowcount
            if cancelled:
                note(self._db, [job_id], "cancelled", self._clock(), error=CANCELLED)
            else:
                self._db.execute(
                    "UPDATE jobs SET is_cancelling = 1 WHERE id = ? AND state = 'running'", (job_id,)
                )
            return views(self._db, [job_id], self._speeds).get(job_id)

    @_on_store_thread
    def release(self, leases: Sequence[Lease]) -> int:
        """Queue jobs again as if they had never started; returns how many."""
        with self._transaction():
            rows = self._db.execute(
                "UPDATE jobs SET state = 'queued', started_at = NULL, attempts = attempts - 1,"
                " lease_until = NULL FROM json_each(?) AS held WHERE jobs.state = 'running'"
                " AND jobs.id = json_extract(held.value, '$[0]')"
                " AND jobs.token = json_extract(held.value, '$[1]') RETURNING id",
                (json.dumps(leases),),
            ).fetchall()
            note(self._db, [row["id"] for row in rows], "requeued", self._clock(), reason="stopped")
        return len(rows)

    @_on_store_thread
    def reclaim(self, alone: bool = False) -> tuple[int, int]:
        """Queue again what runs by a lease that ran out, or fail it after MAX_DEATHS; returns both counts.

        `alone`: no other server is alive, so that every lease has run out.
        """
        now, again, given_up = self._clock(), list[str](), 0
        with self._transaction():
            rows = self._db.execute(
                "UPDATE jobs SET deaths = deaths + has_begun, has_begun = 0, lease_until = NULL"
                " WHERE state = 'running' AND (? OR lease_until < ?)"
                " RETURNING id, token, deaths, is_cancelling",
                (alone, now),
            ).fetchall()
            for job_id, token, deaths, is_cancelling in rows:
                if is_cancelling:
                    self._end(Lease(job_id, token), "cancelled", error=CANCELLED)
                elif deaths >= self._max_deaths:
                    given_up += self._end(
                        Lease(job_id, token), "failed", error=INTERRUPTED.format(deaths=deaths)
                    )
                else:
                    again.append(job_id)
            self._db.execute(
                "UPDATE jobs SET state = 'queued', started_at = NULL"
                " WHERE id IN (SELECT value FROM json_each(?))",
                (json.dumps(again),),
            )
            note(self._db, again, "requeued", now, reason="interrupted")
        return len(again), given_up

    @_on_store_thread
    def check(self) -> None:
        # Rewrites a number in the file's header, so that a disk that takes no writes is noticed.
        self._file.check()
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        self._db.execute(f"PRAGMA user_version = {version}")

    @_on_store_thread
    def find(self, ids: Sequence[str]) -> list[JobView | None]:
        found = views(self._db, ids, self._speeds)
        return [found.get(job_id) for job_id in ids]

    @_on_store_thread
    def newest(self, states: Sequence[JobState], after: str | None, limit: int) -> tuple[JobView, ...]:
        return newest(self._db, states, after, limit, self._speeds)

    @_on_store_thread
    def events(self, after: int, job_id: str | None = None, limit: int = 1000) -> tuple[JobEvent, ...]:
        return events_after(self._db, after, job_id, limit)

    @_on_store_thread
    def last_event(self) -> int:
        return last_number(self._db)

    @_on_store_thread
    def counts(self) -> dict[JobState, int]:
        return dict(self._db.execute("SELECT state, COUNT(*) FROM jobs GROUP BY state").fetchall())

    @_on_store_thread
    def average_seconds(self, window: int) -> float:
        average = average_seconds(self._db, window)
        return self._assumed_seconds if average is None else average

    async def expire(self, before: float, delete: Callable[[str], None]) -> int:
        """Delete some jobs that ended before that time, and their files; returns how many."""
        return await self.remove(partial(remove_ended, before=before), delete)

    @_on_store_thread
    def remove(self, choose: Removal, delete: Callable[[str], None]) -> int:
        with self._transaction():
            removed = choose(self._db)
        for name in chain.from_iterable(removed):
            delete(name)
        return len(removed)

    @_on_store_thread
    def delete(self, job_id: str, delete: Callable[[str], None]) -> bool:
        """Delete a job that has ended and its files, as far as no other job needs them."""
        with self._transaction():
            names = remove_one(self._db, job_id)
        for name in names or ():
            delete(name)
        return names is not None

    @_on_store_thread
    def delete_unneeded(self, name: str, delete: Callable[[str], None]) -> bool:
        """Delete a file unless a queued or running job needs it; returns whether it was deleted."""
        if is_needed(self._db, name):
            return False
        delete(name)
        return True

    @_on_store_thread
    def files(self) -> set[str]:
        return files_of_jobs(self._db)


def _check_audio(task: TaskOptions) -> None:
    for upload, path in (("src_audio", task.source), ("reference_audio", task.reference)):
        if path and not Path(path).is_file():
            raise InvalidFieldError(
                f"{upload}_path",
                Path(path).name,
                "a file that is still there",
                f"It was deleted while the request was read. Upload it as {upload}",
            )
