"""What happened to jobs, and lists of them. Called on the thread of the database."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from typing import Any

from pydantic import TypeAdapter, ValidationError

from acestep.domain.song import Song, SongRequest
from acestep.jobs.eta import UNKNOWN, Speeds, Work
from acestep.jobs.model import EventKind, Hook, Job, JobEvent, JobState, JobView, Once, Receipt

UNREADABLE = (
    "This job was stored by another version of the server, which this one cannot read. Submit it again."
)

REPEATABLE_SECONDS = 24 * 3600.0  # that the answer to a submission is kept
LEARNED_FROM = 200  # jobs, at a start

REQUEST = TypeAdapter(SongRequest)
SONGS = TypeAdapter(tuple[Song, ...])


def note(
    database: sqlite3.Connection, job_ids: Sequence[str], kind: EventKind, at: float, **data: Any
) -> None:
    """Write an event of each job, in the transaction that changes its state. None in `data` says nothing."""
    told = json.dumps({key: value for key, value in data.items() if value is not None}, ensure_ascii=False)
    database.executemany(
        "INSERT INTO events (job_id, kind, at, data) VALUES (?, ?, ?, ?)",
        [(job_id, kind, at, told) for job_id in job_ids],
    )


def add_hook(database: sqlite3.Connection, job_id: str, hook: Hook) -> None:
    """Before the first event of the job is written."""
    database.execute("INSERT INTO hooks VALUES (?, ?, ?)", (job_id, hook.url, json.dumps(hook.events)))


def note_submission(database: sqlite3.Connection, once: Once, receipt: Receipt, at: float) -> None:
    database.execute("DELETE FROM submissions WHERE at < ?", (at - REPEATABLE_SECONDS,))
    database.execute(
        "INSERT OR REPLACE INTO submissions VALUES (?, ?, ?, ?, ?, ?)",
        (*once, receipt.job_id, receipt.position, receipt.seconds, at),
    )


def submission(database: sqlite3.Connection, name: str, now: float) -> tuple[Once, Receipt] | None:
    row = database.execute(
        "SELECT fingerprint, job_id, position, seconds FROM submissions WHERE id = ? AND at >= ?",
        (name, now - REPEATABLE_SECONDS),
    ).fetchone()
    return row and (Once(name, row["fingerprint"]), Receipt(row["job_id"], row["position"], row["seconds"]))


def note_songs(
    database: sqlite3.Connection, job_id: str, songs: Iterable[tuple[int, Song]], at: float
) -> None:
    """Write an event of each song, but for those that this attempt has told already."""
    rows = database.execute(
        "SELECT json_extract(data, '$.index') FROM events WHERE job_id = ?1 AND kind = 'song' AND number >"
        " COALESCE((SELECT MAX(number) FROM events WHERE job_id = ?1 AND kind = 'started'), 0)",
        (job_id,),
    )
    told = {index for (index,) in rows}
    for index, song in songs:
        if index not in told:
            note(database, [job_id], "song", at, index=index, file=song.file, caption=song.plan.caption)


def events_after(
    database: sqlite3.Connection, number: int, job_id: str | None, limit: int
) -> tuple[JobEvent, ...]:
    """The events after that number in their order; of all jobs if `job_id` is None."""
    of_job = () if job_id is None else (job_id,)
    rows = database.execute(
        "SELECT number, job_id, kind, at, data FROM events WHERE number > ?"
        f"{' AND job_id = ?' if of_job else ''} ORDER BY number LIMIT ?",
        (number, *of_job, limit),
    )
    return tuple(
        JobEvent(at_number, of, kind, at, json.loads(data)) for at_number, of, kind, at, data in rows
    )


def last_number(database: sqlite3.Connection) -> int:
    (number,) = database.execute("SELECT COALESCE(MAX(number), 0) FROM events").fetchone()
    return int(number)


def views(database: sqlite3.Connection, ids: Sequence[str], speeds: Speeds) -> Mapping[str, JobView]:
    rows = database.execute(
        "SELECT * FROM jobs WHERE id IN (SELECT value FROM json_each(?))", (json.dumps(ids),)
    ).fetchall()
    return {view.job.id: view for view in _views(database, rows, speeds)}


def newest(
    database: sqlite3.Connection, states: Sequence[JobState], after: str | None, limit: int, speeds: Speeds
) -> tuple[JobView, ...]:
    """Jobs in one of `states` (none: any), the newest first, from the one before `after` on."""
    rows = database.execute(
        "SELECT * FROM jobs WHERE (? OR state IN (SELECT value FROM json_each(?)))"
        " AND seq < COALESCE((SELECT seq FROM jobs WHERE id = ?), 9e18) ORDER BY seq DESC LIMIT ?",
        (not states, json.dumps(states), after, limit),
    ).fetchall()
    return tuple(_views(database, rows, speeds))


def _views(database: sqlite3.Connection, rows: Sequence[sqlite3.Row], speeds: Speeds) -> Iterator[JobView]:
    is_any_queued = any(row["state"] == "queued" for row in rows)
    places = waiting(database, speeds) if is_any_queued else {}
    for row in rows:
        position, seconds = places.get(row["id"], (None, 0.0))
        yield JobView(job_of(row), position, seconds=seconds)


def waiting(database: sqlite3.Connection, speeds: Speeds) -> Mapping[str, tuple[int, float]]:
    """Of each queued job: its position from 1, and the seconds that the jobs up to it take."""
    rows = database.execute("SELECT id, work FROM jobs WHERE state = 'queued' ORDER BY seq")
    total, places = 0.0, {}
    for position, (job_id, work) in enumerate(rows, start=1):
        total += speeds.seconds(Work(*json.loads(work)) if work else UNKNOWN)
        places[job_id] = position, total
    return places


def learn(database: sqlite3.Connection, speeds: Speeds, job_id: str | None = None) -> None:
    """Learn from one job that succeeded, or (None) from the latest ones; no error is worth an estimate."""
    which = "id = ?" if job_id else "state = 'succeeded' AND ? IS NULL ORDER BY finished_at DESC"
    with suppress(sqlite3.Error):
        rows = database.execute(f"SELECT * FROM jobs WHERE {which} LIMIT ?", (job_id, LEARNED_FROM))
        for job in reversed([job_of(row) for row in rows]):
            speeds.learn(job.request, job.songs, job.work_seconds or 0.0)


def average_seconds(database: sqlite3.Connection, window: int) -> float | None:
    """The mean work of the last `window` jobs that succeeded; None: none has yet."""
    (average,) = database.execute(
        "SELECT AVG(work_seconds) FROM (SELECT work_seconds FROM jobs WHERE state = 'succeeded'"
        " ORDER BY finished_at DESC LIMIT ?)",
        (window,),
    ).fetchone()
    return None if average is None else float(average)


def files_in(songs: str) -> list[str]:
    """The files of the songs in a row."""
    try:
        return [file for song in json.loads(songs) for file in _files_of(song)]
    except (ValueError, TypeError, KeyError, AttributeError):  # another version wrote it
        return []


def _files_of(song: dict[str, Any]) -> Iterator[str]:
    # A song that is only a plan has no file, and one of an older version no analysis.
    stems = song.get("analysis", {}).get("stems", ())
    return filter(None, chain([song["file"]], (stem["file"] for stem in stems)))


def job_of(row: sqlite3.Row) -> Job:
    state, error = row["state"], row["error"]
    try:
        request, songs = REQUEST.validate_json(row["request"]), SONGS.validate_json(row["songs"])
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
        token=row["token"],
        is_cancelling=bool(row["is_cancelling"]),
    )
