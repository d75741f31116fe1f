"""Deleting jobs with their files, as far as no other job needs them. Called on the thread of the database."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from itertools import islice

from acestep.files import StoredFile
from acestep.jobs.history import files_in

EXPIRE_AT_ONCE = 100  # jobs; deleting their files takes some milliseconds, in which requests wait


def remove_ended(database: sqlite3.Connection, before: float) -> Sequence[Sequence[str]]:
    """Remove EXPIRE_AT_ONCE jobs that ended before that time; returns the files of each."""
    rows = database.execute(
        "SELECT seq, songs FROM jobs WHERE state IN ('succeeded', 'failed', 'cancelled')"
        " AND finished_at < ? ORDER BY seq",
        (before,),
    )
    files = ((row["seq"], files_in(row["songs"])) for row in rows)
    # A job stays as long as a queued or running one needs a file of it.
    unneeded = ((seq, names) for seq, names in files if not any(is_needed(database, name) for name in names))
    expired = dict(islice(unneeded, EXPIRE_AT_ONCE))
    _remove(database, [*expired])
    return [*expired.values()]


def remove_least_fetched(
    database: sqlite3.Connection, files: Mapping[str, StoredFile], excess: int
) -> Sequence[Sequence[str]]:
    """Remove the jobs whose files were not fetched for the longest, until those have `excess` bytes."""
    rows = database.execute("SELECT seq, songs FROM jobs WHERE state = 'succeeded' AND songs != '[]'")
    of_jobs = {row["seq"]: [name for name in files_in(row["songs"]) if name in files] for row in rows}
    oldest = sorted(
        (max(files[name].fetched_at for name in names), seq) for seq, names in of_jobs.items() if names
    )
    removed: dict[int, Sequence[str]] = {}
    for _, seq in oldest:
        if excess <= 0:
            break
        if not any(is_needed(database, name) for name in of_jobs[seq]):
            removed[seq] = of_jobs[seq]
            excess -= sum(files[name].size for name in of_jobs[seq])
    _remove(database, [*removed])
    return [*removed.values()]


def remove_one(database: sqlite3.Connection, job_id: str) -> Sequence[str] | None:
    """Remove a job that has ended; returns its files that no other job needs, or None: there is none."""
    row = database.execute(
        "SELECT seq, songs FROM jobs WHERE id = ? AND finished_at IS NOT NULL", (job_id,)
    ).fetchone()
    if row is None:
        return None
    names = [name for name in files_in(row["songs"]) if not is_needed(database, name)]
    _remove(database, [row["seq"]])
    return names


def is_needed(database: sqlite3.Connection, name: str) -> bool:
    # File names are unique, so it does not matter where in a request one stands.
    (needed,) = database.execute(
        "SELECT EXISTS (SELECT 1 FROM jobs WHERE state IN ('queued', 'running') AND instr(request, ?))",
        (name,),
    ).fetchone()
    return bool(needed)


def files_of_jobs(database: sqlite3.Connection) -> set[str]:
    rows = database.execute("SELECT songs FROM jobs WHERE songs != '[]'")
    return {file for (songs,) in rows for file in files_in(songs)}


def oldest_start(database: sqlite3.Connection) -> float | None:
    """When the first of the running jobs began."""
    (started,) = database.execute("SELECT MIN(started_at) FROM jobs WHERE state = 'running'").fetchone()
    return None if started is None else float(started)


def _remove(database: sqlite3.Connection, numbers: Sequence[int]) -> None:
    chosen = (json.dumps(numbers),)
    database.execute(
        "DELETE FROM events WHERE job_id IN"
        " (SELECT id FROM jobs WHERE seq IN (SELECT value FROM json_each(?)))",
        chosen,
    )
    database.execute("DELETE FROM jobs WHERE seq IN (SELECT value FROM json_each(?))", chosen)
