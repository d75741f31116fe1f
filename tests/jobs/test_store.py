from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from acestep.domain.analysis import Analysis, Loudness, LyricTimes, Stem, TimedLine, TimedWord
from acestep.domain.song import PlannerOptions, SamplerOptions, SongRequest, TaskOptions
from acestep.errors import DataFolderError, InvalidFieldError, JobDatabaseError
from acestep.jobs.model import Job, JobView, Ticket
from acestep.jobs.store import INTERRUPTED, UNREADABLE, JobStore
from tests.jobs.conftest import Clock
from tests.jobs.fakes import request, song
from tests.jobs.outages import Outage, damaged, each_outage, pragma


async def submit(store: JobStore, caption: str = "a song") -> str:
    ticket = await store.submit(request(caption), max_waiting=0)
    assert ticket is not None
    return ticket.job_id


async def view(store: JobStore, job_id: str) -> JobView:
    (found,) = await store.find([job_id])
    assert found is not None
    return found


async def job(store: JobStore, job_id: str) -> Job:
    return (await view(store, job_id)).job


async def claim(store: JobStore) -> Job:
    claimed = await store.claim()
    assert claimed is not None
    return claimed.job


def move(path: Path, to: Path) -> None:
    path.rename(to)


def edit(path: Path, statement: str, *values: object) -> None:
    """Change the database behind the store's back, as another version or a broken disk would."""
    database = sqlite3.connect(path)
    with database:
        database.execute(statement, values)
    database.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.sqlite3"


class TestSubmit:
    async def test_gives_a_uuid_and_the_place_in_the_queue(self, store: JobStore):
        tickets = [await store.submit(request(), max_waiting=0) for _ in range(3)]
        assert [ticket.position for ticket in tickets if ticket] == [1, 2, 3]
        assert all(UUID(ticket.job_id).version == 4 for ticket in tickets if ticket)

    async def test_keeps_every_field_of_the_request(self, store: JobStore, clock: Clock):
        asked = SongRequest(
            caption="zwölf 'Töne' 🎶",
            lyrics='[verse]\n"quoted"\0\t\u2028',
            language="de",
            bpm=77,
            key_scale="E minor",
            time_signature="3",
            duration=44.5,
            batch_size=2,
            seeds=(0, 2**32 - 1),
            model="acestep-v15-base",
            task_type="repaint",
            instruction="Fill",
            audio_format="wav32",
            sampler=SamplerOptions(steps=27, timesteps=(1.0, 0.5, 0.0), infer_method="sde", use_adg=True),
            planner=PlannerOptions(thinking=True, top_k=40, temperature=0.1 + 0.2),
            warnings=("steps: 60 is more than 8",),
        )
        ticket = await store.submit(asked, max_waiting=0)
        assert ticket is not None
        assert await view(store, ticket.job_id) == JobView(
            Job(ticket.job_id, "queued", asked, created_at=clock.now), position=1
        )

    async def test_is_durable_when_it_returns(self, store: JobStore, path: Path):
        job_id = await submit(store)
        other = JobStore(path)  # while the first one is still open: nothing was flushed by closing
        assert (await job(other, job_id)).state == "queued"
        await other.close()

    async def test_forces_each_commit_to_the_disk(self, store: JobStore):
        assert await pragma(store, "journal_mode") == "wal"
        assert await pragma(store, "synchronous") == 2  # FULL

    async def test_refuses_when_enough_are_queued(self, store: JobStore):
        assert await store.submit(request(), max_waiting=1) is not None
        assert await store.submit(request(), max_waiting=1) is None
        assert await store.counts() == {"queued": 1}
        await claim(store)
        assert isinstance(await store.submit(request(), max_waiting=1), Ticket)


class TestClaim:
    async def test_takes_the_oldest_and_marks_it_running(self, store: JobStore, clock: Clock):
        ids = [await submit(store) for _ in range(3)]
        clock.now += 10
        claimed = [await claim(store) for _ in ids]
        assert [job.id for job in claimed] == ids
        assert {(job.state, job.attempts, job.started_at) for job in claimed} == {("running", 1, clock.now)}
        assert await job(store, ids[0]) == claimed[0]
        assert await store.claim() is None

    async def test_moves_the_others_up(self, store: JobStore):
        ids = [await submit(store) for _ in range(3)]
        await claim(store)
        assert [found.position for found in await store.find(ids) if found] == [None, 1, 2]

    async def test_tells_whether_an_older_job_is_left(self, store: JobStore):
        for model in ("away", "near", "near"):
            await store.submit(replace(request(), model=model), max_waiting=0)
        claims = [await store.claim(["near"]) for _ in range(3)]
        assert [(found.job.request.model, found.is_oldest) for found in claims if found] == [
            ("near", False),
            ("near", False),
            ("away", True),
        ]


class TestEnd:
    async def test_finish_keeps_the_songs_and_the_time_it_took(self, store: JobStore, clock: Clock):
        job_id = await submit(store)
        clock.now += 100
        await claim(store)
        clock.now += 12.5
        songs = (song("a.mp3", seed=1), song("b.mp3", seed=2))
        await store.finish(job_id, songs)
        done = await job(store, job_id)
        assert (done.state, done.songs, done.error) == ("succeeded", songs, None)
        assert (done.finished_at, done.work_seconds) == (clock.now, 12.5)

    async def test_fail_keeps_the_reason(self, store: JobStore):
        job_id = await submit(store)
        await claim(store)
        await store.fail(job_id, "out of memory")
        done = await job(store, job_id)
        assert (done.state, done.songs, done.error) == ("failed", (), "out of memory")

    async def test_a_job_that_does_not_run_cannot_end(self, store: JobStore):
        job_id = await submit(store)
        await store.finish(job_id, (song("late.mp3"),))
        assert (await job(store, job_id)).state == "queued"
        await claim(store)
        await store.finish(job_id, (song("a.mp3"),))
        await store.fail(job_id, "too late")
        assert (await job(store, job_id)).state == "succeeded"

    async def test_a_clock_set_back_makes_no_negative_time(self, store: JobStore, clock: Clock):
        job_id = await submit(store)
        await claim(store)
        clock.now -= 3600
        await store.finish(job_id, (song("a.mp3"),))
        assert (await job(store, job_id)).work_seconds == 0


class TestRestart:
    async def test_puts_interrupted_jobs_back_in_their_places(self, store: JobStore, path: Path):
        ids = [await submit(store, caption) for caption in "abc"]
        await claim(store)
        await claim(store)
        again = JobStore(path)  # the first one is not closed: neither is that of a server that dies
        assert await again.recover() == (2, 0)
        found = [view for view in await again.find(ids) if view]
        assert [(view.job.state, view.job.attempts, view.position) for view in found] == [
            ("queued", 1, 1),
            ("queued", 1, 2),
            ("queued", 0, 3),
        ]
        assert [(await claim(again)).request.caption for _ in ids] == ["a", "b", "c"]
        await again.close()

    async def test_gives_up_a_job_that_was_interrupted_twice(self, store: JobStore):
        job_id = await submit(store)
        for outcome in ((1, 0), (0, 1)):
            await claim(store)
            assert await store.recover() == outcome
        done = await job(store, job_id)
        assert (done.state, done.error, done.attempts) == ("failed", INTERRUPTED, 2)
        assert done.finished_at is not None
        assert await store.claim() is None

    async def test_a_released_job_has_its_attempt_back(self, store: JobStore):
        first, second = await submit(store), await submit(store)
        for _ in range(5):
            assert (await claim(store)).id == first
            assert await store.release_running() == 1
        assert (await job(store, first)).attempts == 0
        assert (await view(store, second)).position == 2

    async def test_keeps_what_ended(self, store: JobStore, path: Path):
        job_id = await submit(store)
        await claim(store)
        await store.finish(job_id, (song("a.mp3"),))
        before = await job(store, job_id)
        again = JobStore(path)
        assert await again.recover() == (0, 0)
        assert await job(again, job_id) == before
        await again.close()


class FailingDatabase:
    """A connection whose statement or commit number `fails_at` fails."""

    def __init__(self, database: sqlite3.Connection, fails_at: int) -> None:
        self._database = database
        self._left = fails_at

    def execute(self, *statement: Any) -> sqlite3.Cursor:
        self._count()
        return self._database.execute(*statement)

    def _count(self) -> None:
        self._left -= 1
        if self._left == 0:
            raise sqlite3.OperationalError("disk I/O error")

    def __enter__(self) -> None:
        self._database.__enter__()

    def __exit__(self, *error: Any) -> None:
        try:
            if error[0] is None:
                self._count()
        except sqlite3.OperationalError as failed:
            self._database.__exit__(type(failed), failed, None)
            raise
        self._database.__exit__(*error)


Change = Callable[[JobStore], Awaitable[object]]
# Of five jobs "queued" is the oldest that is queued, and cannot be read.
CHANGES: dict[str, Change] = {
    "submit": lambda store: store.submit(request(), max_waiting=100),
    "claim": lambda store: store.claim(),
    "claim for a model": lambda store: store.claim(["near"]),
    "finish": lambda store: store.finish("running", (song("a.mp3"),)),
    "fail": lambda store: store.fail("running", "no"),
    "release_running": lambda store: store.release_running(),
    "recover": lambda store: store.recover(),
    "expire": lambda store: store.expire(10.0**12, lambda name: None),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_a_change_that_fails_anywhere_has_changed_nothing(
    store: JobStore, path: Path, monkeypatch: pytest.MonkeyPatch, change: Change
):
    for name, sql in {
        "ended": "state = 'succeeded', finished_at = 1",
        "died twice": "state = 'running', attempts = 2",
        "running": "state = 'running', attempts = 1",
        "queued": 'request = \'{"task_type": "dance"}\'',
        "near": "request = json_set(request, '$.model', 'near')",
    }.items():
        edit(path, f"UPDATE jobs SET id = ?, {sql} WHERE id = ?", name, await submit(store))

    def rows() -> list[Any]:
        with closing(sqlite3.connect(path)) as database:
            return database.execute("SELECT * FROM jobs").fetchall()

    before, whole = rows(), store._db
    for fails_at in count(1):
        failing = FailingDatabase(whole, fails_at)
        monkeypatch.setattr(store, "_db", failing)
        try:
            await change(store)
        except DataFolderError:
            assert rows() == before, f"statement {fails_at}"
        else:
            break
    monkeypatch.setattr(store, "_db", whole)
    assert fails_at > 1
    assert rows() != before


class TestOtherVersions:
    async def test_unknown_and_missing_fields_of_a_request_are_no_matter(self, store: JobStore, path: Path):
        job_id = await submit(store)
        stored = '{"caption": "old", "planner": {"thinking": true, "gone": 1}, "gone": {"x": []}}'
        edit(path, "UPDATE jobs SET request = ?", stored)
        expected = SongRequest(caption="old", planner=PlannerOptions(thinking=True))
        assert (await job(store, job_id)).request == expected
        assert (await claim(store)).request == expected

    async def test_a_request_that_cannot_be_read_fails_and_holds_up_nobody(self, store: JobStore, path: Path):
        broken, other = await submit(store), await submit(store, "fine")
        edit(path, 'UPDATE jobs SET request = \'{"task_type": "dance"}\' WHERE id = ?', broken)
        assert (await job(store, broken)).error == UNREADABLE
        assert (await claim(store)).id == other
        assert await store.counts() == {"failed": 1, "running": 1}

    async def test_songs_that_cannot_be_read_count_as_failed(self, store: JobStore, path: Path):
        job_id = await submit(store)
        await claim(store)
        await store.finish(job_id, (song("a.mp3"),))
        edit(path, 'UPDATE jobs SET songs = \'[{"file": "a.mp3"}]\'')
        done = await job(store, job_id)
        assert (done.state, done.error) == ("failed", UNREADABLE)
        assert await store.files() == {"a.mp3"}

    async def test_a_newer_database_is_refused(self, store: JobStore, path: Path):
        edit(path, "PRAGMA user_version = 99")
        with pytest.raises(DataFolderError, match=r"schema 99.*newer version"):
            JobStore(path)


class TestFind:
    async def test_keeps_order_and_duplicates_and_marks_the_unknown(self, store: JobStore):
        a, b = await submit(store), await submit(store)
        ids = [b, "unknown", a, b, "\ud800", ""]
        assert [found and found.job.id for found in await store.find(ids)] == [b, None, a, b, None, None]
        assert await store.find([]) == []

    async def test_takes_any_number_of_ids(self, store: JobStore):
        job_id = await submit(store)
        found = await store.find(["unknown"] * 50_000 + [job_id])
        assert found[-1] is not None


class TestCounts:
    async def test_average_is_over_the_last_that_succeeded(self, store: JobStore, clock: Clock):
        assert await store.average_seconds(window=2, default=5.0) == 5.0
        for seconds in (100.0, 10.0, 20.0):
            job_id = await submit(store)
            await claim(store)
            clock.now += seconds
            await store.finish(job_id, (song("a.mp3"),))
        failed = await submit(store)
        await claim(store)
        clock.now += 1000
        await store.fail(failed, "no")
        assert await store.average_seconds(window=2, default=5.0) == 15.0
        assert await store.average_seconds(window=50, default=5.0) == pytest.approx(130 / 3)
        assert await store.counts() == {"succeeded": 3, "failed": 1}


class TestExpire:
    async def expired(self, store: JobStore, before: float) -> list[str]:
        """Expire jobs; returns the files that are deleted."""
        deleted: list[str] = []
        await store.expire(before, deleted.append)
        return deleted

    async def test_forgets_what_ended_before_and_deletes_its_files(self, store: JobStore, clock: Clock):
        ids = [await submit(store) for _ in range(5)]
        for _ in range(4):
            await claim(store)
        await store.finish(ids[0], (song("a.mp3"), song("b.mp3")))
        await store.fail(ids[1], "no")
        clock.now += 100
        await store.finish(ids[2], (song("c.mp3"),))
        assert await store.files() == {"a.mp3", "b.mp3", "c.mp3"}
        assert await self.expired(store, clock.now - 50) == ["a.mp3", "b.mp3"]
        assert await self.expired(store, clock.now - 50) == []
        left = [found and found.job.state for found in await store.find(ids)]
        assert left == [None, None, "succeeded", "running", "queued"]
        assert await store.files() == {"c.mp3"}

    async def test_takes_so_many_at_once(
        self, store: JobStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr("acestep.jobs.store.EXPIRE_AT_ONCE", 2)
        for name in "abc":
            job_id = await submit(store)
            await claim(store)
            await store.finish(job_id, (song(f"{name}.mp3"),))
        deleted: list[str] = []
        counts = [await store.expire(clock.now + 1, deleted.append) for _ in range(3)]
        assert counts == [2, 1, 0]
        assert deleted == ["a.mp3", "b.mp3", "c.mp3"]

    async def test_stems_belong_to_their_song(self, store: JobStore, clock: Clock):
        analysis = Analysis(
            lyric_times=LyricTimes((TimedLine("la", 0.5, 1.25, (TimedWord("la", 0.5, 1.25),)),), 0.75),
            peaks=((-0.5, 0.25),),
            loudness=Loudness(-14.2, None),
            stems=(Stem("drums", "d.mp3"), Stem("vocals", "v.mp3")),
        )
        whole = replace(song("a.mp3"), analysis=analysis)
        job_id = await submit(store)
        await claim(store)
        await store.finish(job_id, (whole, song("b.mp3")))
        assert (await job(store, job_id)).songs == (whole, song("b.mp3"))
        assert await store.files() == {"a.mp3", "d.mp3", "v.mp3", "b.mp3"}
        assert await self.expired(store, clock.now + 1) == ["a.mp3", "d.mp3", "v.mp3", "b.mp3"]

    async def test_never_takes_queued_or_running_jobs(self, store: JobStore, clock: Clock):
        ids = [await submit(store), await submit(store)]
        await claim(store)
        assert await self.expired(store, clock.now + 10**9) == []
        assert None not in await store.find(ids)

    async def test_a_plan_has_no_file(self, store: JobStore, clock: Clock):
        planned, _ = await submit(store), await submit(store)
        await claim(store)
        await store.finish(planned, (song(""),))
        assert await store.files() == set()
        assert await self.expired(store, clock.now + 1) == []
        assert await store.find([planned]) == [None]

    @pytest.mark.parametrize("songs", ["not JSON", "{}", '[{"plan": {}}]', "[7]", "null"])
    async def test_a_job_whose_songs_cannot_be_read_expires_too(
        self, store: JobStore, path: Path, clock: Clock, songs: str
    ):
        job_id = await submit(store)
        await claim(store)
        await store.finish(job_id, (song("a.mp3"),))
        edit(path, "UPDATE jobs SET songs = ?", songs)
        assert await store.files() == set()
        assert await store.expire(clock.now + 1, lambda name: None) == 1
        assert await store.find([job_id]) == [None]


class TestNeededFiles:
    """Files that queued and running jobs name, which stay until these jobs have ended."""

    @pytest.fixture
    def made(self, tmp_path: Path) -> list[Path]:
        """Two songs of one job."""
        paths = [tmp_path / f"{letter * 32}.mp3" for letter in "ab"]
        for path in paths:
            path.write_bytes(b"song")
        return paths

    @pytest.fixture
    async def done(self, store: JobStore, made: list[Path]) -> str:
        """The job that made them, which has ended."""
        job_id = await submit(store)
        await claim(store)
        await store.finish(job_id, tuple(song(path.name) for path in made))
        return job_id

    async def expire(self, store: JobStore, clock: Clock, made: list[Path]) -> int:
        return await store.expire(clock.now + 1, lambda name: (made[0].parent / name).unlink())

    @pytest.mark.parametrize("role", ["source", "reference"])
    async def test_the_job_that_made_one_expires_when_the_last_that_needs_it_has_ended(
        self, store: JobStore, clock: Clock, made: list[Path], done: str, role: str
    ):
        task = TaskOptions(source=str(made[1])) if role == "source" else TaskOptions(reference=str(made[1]))
        asked = replace(request(), task=task)
        receipts = [await store.submit(asked, max_waiting=0) for _ in range(2)]
        first, second = [receipt.job_id for receipt in receipts if receipt]
        assert await self.expire(store, clock, made) == 0  # both are queued
        await claim(store)
        await store.fail(first, "no")
        await claim(store)
        clock.now -= 10
        assert await self.expire(store, clock, made) == 0  # the second runs
        assert [path.exists() for path in made] == [True, True]
        clock.now += 10
        await store.finish(second, ())
        assert await self.expire(store, clock, made) == 3
        assert [path.exists() for path in made] == [False, False]

    async def test_others_expire_meanwhile(self, store: JobStore, clock: Clock, made: list[Path], done: str):
        other = await submit(store)
        await claim(store)
        await store.finish(other, ())
        await store.submit(replace(request(), task=TaskOptions(source=str(made[0]))), max_waiting=0)
        assert await self.expire(store, clock, made) == 1
        assert [found is not None for found in await store.find([done, other])] == [True, False]

    async def test_a_job_is_refused_whose_audio_expired_before(
        self, store: JobStore, clock: Clock, made: list[Path], done: str
    ):
        await self.expire(store, clock, made)
        gone_path, name = str(made[0]), made[0].name
        for field, task in (
            ("src_audio_path", TaskOptions(source=gone_path)),
            ("reference_audio_path", TaskOptions(reference=gone_path)),
        ):
            with pytest.raises(InvalidFieldError, match=f"{field}: '{name}' .* deleted while") as gone:
                await store.submit(replace(request(), task=task), max_waiting=0)
            assert gone.value.field == field
        assert await store.counts() == {}

    @pytest.mark.parametrize("submit_first", [True, False])
    async def test_of_submit_and_expiry_at_once_one_comes_first(
        self, store: JobStore, clock: Clock, made: list[Path], done: str, submit_first: bool
    ):
        asked = replace(request(), task=TaskOptions(source=str(made[0])))
        if submit_first:
            accepted, forgotten = await asyncio.gather(
                store.submit(asked, 0), self.expire(store, clock, made)
            )
            assert (accepted is not None, forgotten, made[0].exists()) == (True, 0, True)
        else:
            forgotten, refused = await asyncio.gather(
                self.expire(store, clock, made), store.submit(asked, 0), return_exceptions=True
            )
            assert (forgotten, type(refused)) == (1, InvalidFieldError)

    async def test_what_no_unfinished_job_needs_is_deleted(
        self, store: JobStore, made: list[Path], done: str
    ):
        await store.submit(replace(request(), task=TaskOptions(reference=str(made[0]))), max_waiting=0)
        deleted: list[str] = []
        answers = [await store.delete_unneeded(path.name, deleted.append) for path in made]
        assert (answers, deleted) == ([False, True], [made[1].name])


class TestRefusal:
    async def test_a_full_disk_is_told_and_changes_nothing(self, store: JobStore, path: Path):
        job_id = await submit(store)
        limit = await pragma(store, "page_count")
        await pragma(store, f"max_page_count = {limit}")
        big = replace(request(), lyrics="la " * 100_000)
        with pytest.raises(JobDatabaseError, match=f"{path} cannot be used: .*full. Make room on its disk."):
            await store.submit(big, max_waiting=0)
        await pragma(store, "max_page_count = 1000000")
        assert await store.submit(big, max_waiting=0) is not None
        assert (await view(store, job_id)).position == 1
        assert await store.counts() == {"queued": 2}

    @each_outage
    async def test_every_method_tells_it(self, store: JobStore, path: Path, outage: Outage):
        job_id, ended, _ = [await submit(store) for _ in range(3)]
        for _ in range(2):
            await claim(store)
        await store.fail(ended, "no")
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "submit": lambda: store.submit(request(), max_waiting=0),
            "claim": store.claim,
            "finish": lambda: store.finish(job_id, ()),
            "fail": lambda: store.fail(job_id, "no"),
            "release_running": store.release_running,
            "recover": store.recover,
            "expire": lambda: store.expire(10.0**12, lambda name: None),
            "check": store.check,
        }
        with outage(store, path) as sentence:
            for name, call in calls.items():
                with pytest.raises(JobDatabaseError) as refused:
                    await call()
                    raise AssertionError(name)
                assert str(refused.value) == f"The job database {path} cannot be used: {sentence}"
                assert refused.value.public == f"The job database jobs.sqlite3 cannot be used: {sentence}"
        await store.check()
        assert await store.counts() == {"running": 1, "queued": 1, "failed": 1}
        assert store.damage is None

    @pytest.mark.parametrize("method", ["submit", "claim", "find", "files"])
    async def test_damage_is_told_and_remembered(self, tmp_path: Path, path: Path, method: str):
        job_id = await damaged(path)
        store = JobStore(path)
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "submit": lambda: store.submit(request(), max_waiting=0),
            "claim": store.claim,
            "find": lambda: store.find([job_id]),
            "files": store.files,
        }
        with pytest.raises(
            JobDatabaseError, match=r"jobs.sqlite3 is damaged \(.*\). Stop the server"
        ) as told:
            await calls[method]()
        assert store.damage is told.value
        await store.close()

    async def test_a_file_that_is_gone_takes_no_jobs_until_it_is_back(self, store: JobStore, path: Path):
        away = path.with_suffix(".away")
        calls: list[Callable[[], Awaitable[object]]] = [store.check, lambda: store.submit(request(), 0)]
        move(path, away)
        for call in calls:
            with pytest.raises(JobDatabaseError, match=r"was moved or deleted\. Put it back"):
                await call()
        move(away, path)
        for call in calls:
            await call()
        assert await store.counts() == {"queued": 1}
