from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from acestep.domain.analysis import Analysis, Loudness, LyricTimes, Stem, TimedLine, TimedWord
from acestep.domain.song import TaskOptions
from acestep.errors import InvalidFieldError
from acestep.jobs.model import Lease
from acestep.jobs.store import JobStore
from tests.jobs.conftest import Clock
from tests.jobs.fakes import claim, edit, job, request, song, submit


class TestExpire:
    async def expired(self, store: JobStore, before: float) -> list[str]:
        """Expire jobs; returns the files that are deleted."""
        deleted: list[str] = []
        await store.expire(before, deleted.append)
        return deleted

    async def test_deletes_jobs_that_ended_before_with_their_files(self, store: JobStore, clock: Clock):
        ids = [await submit(store) for _ in range(5)]
        for _ in range(4):
            await claim(store)
        await store.finish(Lease(ids[0], 1), (song("a.mp3"), song("b.mp3")))
        await store.fail(Lease(ids[1], 1), "no")
        clock.now += 100
        await store.finish(Lease(ids[2], 1), (song("c.mp3"),))
        assert await store.files() == {"a.mp3", "b.mp3", "c.mp3"}
        assert await self.expired(store, clock.now - 50) == ["a.mp3", "b.mp3"]
        assert await self.expired(store, clock.now - 50) == []
        left = [found and found.job.state for found in await store.find(ids)]
        assert left == [None, None, "succeeded", "running", "queued"]
        assert await store.files() == {"c.mp3"}

    async def test_deletes_so_many_at_once(
        self, store: JobStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr("acestep.jobs.expiry.EXPIRE_AT_ONCE", 2)
        for name in "abc":
            job_id = await submit(store)
            await claim(store)
            await store.finish(Lease(job_id, 1), (song(f"{name}.mp3"),))
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
        await store.finish(Lease(job_id, 1), (whole, song("b.mp3")))
        assert (await job(store, job_id)).songs == (whole, song("b.mp3"))
        assert await store.files() == {"a.mp3", "d.mp3", "v.mp3", "b.mp3"}
        assert await self.expired(store, clock.now + 1) == ["a.mp3", "d.mp3", "v.mp3", "b.mp3"]

    async def test_keeps_queued_and_running_jobs(self, store: JobStore, clock: Clock):
        ids = [await submit(store), await submit(store)]
        await claim(store)
        assert await self.expired(store, clock.now + 10**9) == []
        assert None not in await store.find(ids)

    async def test_a_plan_has_no_file(self, store: JobStore, clock: Clock):
        planned, _ = await submit(store), await submit(store)
        await claim(store)
        await store.finish(Lease(planned, 1), (song(""),))
        assert await store.files() == set()
        assert await self.expired(store, clock.now + 1) == []
        assert await store.find([planned]) == [None]

    @pytest.mark.parametrize("songs", ["not JSON", "{}", '[{"plan": {}}]', "[7]", "null"])
    async def test_a_job_whose_songs_cannot_be_read_expires_too(
        self, store: JobStore, path: Path, clock: Clock, songs: str
    ):
        job_id = await submit(store)
        await claim(store)
        await store.finish(Lease(job_id, 1), (song("a.mp3"),))
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
        await store.finish(Lease(job_id, 1), tuple(song(path.name) for path in made))
        return job_id

    async def expire(self, store: JobStore, clock: Clock, made: list[Path]) -> int:
        return await store.expire(clock.now + 1, lambda name: (made[0].parent / name).unlink())

    @pytest.mark.parametrize("role", ["source", "reference"])
    async def test_a_job_expires_when_the_last_that_needs_its_song_has_ended(
        self, store: JobStore, clock: Clock, made: list[Path], done: str, role: str
    ):
        task = TaskOptions(source=str(made[1])) if role == "source" else TaskOptions(reference=str(made[1]))
        asked = replace(request(), task=task)
        receipts = [await store.submit(asked, max_waiting=0) for _ in range(2)]
        first, second = [receipt.job_id for receipt in receipts if receipt]
        assert await self.expire(store, clock, made) == 0  # both are queued
        await claim(store)
        await store.fail(Lease(first, 1), "no")
        await claim(store)
        clock.now -= 10
        assert await self.expire(store, clock, made) == 0  # the second runs
        assert [path.exists() for path in made] == [True, True]
        clock.now += 10
        await store.finish(Lease(second, 1), ())
        assert await self.expire(store, clock, made) == 3
        assert [path.exists() for path in made] == [False, False]

    async def test_others_expire_meanwhile(self, store: JobStore, clock: Clock, made: list[Path], done: str):
        other = await submit(store)
        await claim(store)
        await store.finish(Lease(other, 1), ())
        await store.submit(replace(request(), task=TaskOptions(source=str(made[0]))), max_waiting=0)
        assert await self.expire(store, clock, made) == 1
        assert [found is not None for found in await store.find([done, other])] == [True, False]

    async def test_a_request_whose_audio_has_expired_is_refused(
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

    async def test_an_unneeded_file_is_deleted(self, store: JobStore, made: list[Path], done: str):
        await store.submit(replace(request(), task=TaskOptions(reference=str(made[0]))), max_waiting=0)
        deleted: list[str] = []
        answers = [await store.delete_unneeded(path.name, deleted.append) for path in made]
        assert (answers, deleted) == ([False, True], [made[1].name])
