from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from acestep.domain.analysis import Analysis, Stem
from acestep.domain.song import AnalysisOptions
from acestep.jobs.model import Lease
from acestep.jobs.store import JobStore
from tests.jobs.fakes import claim, request, song, submit

WANTED = AnalysisOptions(peaks=8, stems=("drums",))
FOUND = Analysis(stems=(Stem("drums", "d.mp3"),))


async def test_what_a_song_was_examined_for_is_found_under_its_new_name(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite3"
    store = JobStore(path)
    receipts = [await store.submit(replace(request("x"), analysis=WANTED), max_waiting=0) for _ in range(2)]
    claimed = await store.claim()
    assert claimed is not None and None not in receipts
    await store.finish(claimed.job.lease, (replace(song("a.mp3"), analysis=FOUND), song("b.mp3")))
    await store.close()
    as_version_1(path)

    store = JobStore(path)
    done, waiting = await store.find([receipt.job_id for receipt in receipts if receipt])
    await store.close()
    assert done is not None and waiting is not None
    assert [each.job.request.analysis for each in (done, waiting)] == [WANTED, WANTED]
    assert [each.analysis for each in done.job.songs] == [FOUND, Analysis()]
    assert [each.file for each in done.job.songs] == ["a.mp3", "b.mp3"]


def as_version_1(path: Path) -> None:
    """Write the rows as the first version did."""
    database = sqlite3.connect(path)
    with database:
        for seq, asked, songs in database.execute("SELECT seq, request, songs FROM jobs").fetchall():
            old = json.loads(asked)
            old["extras"] = old.pop("analysis")
            made = [each | {"findings": each["analysis"]} for each in json.loads(songs)]
            for each in made:
                del each["analysis"]
            row = (json.dumps(old), json.dumps(made, separators=(",", ":")), seq)
            database.execute("UPDATE jobs SET request = ?, songs = ? WHERE seq = ?", row)
        without_leases(database, 1)
    database.close()


def without_leases(database: sqlite3.Connection, version: int) -> None:
    """Take away what versions from 4 on have added."""
    for trigger in ("hooked_job", "counted_job"):
        database.execute(f"DROP TRIGGER {trigger}")
    for table in ("events", "submissions", "hooks", "deliveries", "counters"):
        database.execute(f"DROP TABLE {table}")
    for column in ("token", "lease_until", "has_begun", "deaths", "is_cancelling", "work"):
        database.execute(f"ALTER TABLE jobs DROP COLUMN {column}")
    database.execute(f"PRAGMA user_version = {version}")


async def test_a_job_that_ran_without_a_lease_is_queued_again(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite3"
    store = JobStore(path)
    job_id = await submit(store)
    await claim(store)
    await store.close()
    with closing(sqlite3.connect(path)) as database, database:
        without_leases(database, 3)

    store = JobStore(path)
    assert await store.reclaim(alone=True) == (1, 0)
    claimed = await claim(store)
    assert (claimed.lease, claimed.attempts) == (Lease(job_id, 1), 2)
    assert [event.kind for event in await store.events(0, job_id)] == ["requeued", "started"]
    await store.close()


async def test_angle_based_guidance_of_version_2_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite3"
    store = JobStore(path)
    receipts = [await store.submit(request(), max_waiting=0) for _ in range(2)]
    claimed = await store.claim()
    assert claimed is not None
    await store.finish(claimed.job.lease, (song("a.mp3"), song("b.mp3")))
    await store.close()
    database = sqlite3.connect(path)
    with database:
        for seq, asked, songs in database.execute("SELECT seq, request, songs FROM jobs").fetchall():
            old, made = json.loads(asked), json.loads(songs)
            old["sampler"]["use_adg"] = seq == 2
            for number, each in enumerate(made):
                each["plan"]["sampling"]["use_adg"] = number == 1
            row = (json.dumps(old), json.dumps(made, separators=(",", ":")), seq)
            database.execute("UPDATE jobs SET request = ?, songs = ? WHERE seq = ?", row)
        without_leases(database, 2)
    database.close()

    store = JobStore(path)
    done, waiting = await store.find([receipt.job_id for receipt in receipts if receipt])
    await store.close()
    assert done is not None and waiting is not None
    assert [each.plan.sampling.tuning.guidance for each in done.job.songs] == ["apg_classic", "adg"]
    assert [view.job.request.sampler.tuning.guidance for view in (done, waiting)] == ["apg_classic", "adg"]
