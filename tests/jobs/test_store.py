from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from acestep.domain.song import PlannerOptions, SamplerOptions, SongRequest, Tuning, WaveletCorrection
from acestep.errors import DataFolderError
from acestep.jobs.history import UNREADABLE
from acestep.jobs.model import Job, JobView, Lease, Receipt
from acestep.jobs.store import INTERRUPTED, JobStore
from tests.jobs.conftest import Clock
from tests.jobs.fakes import claim, edit, job, request, song, submit, view
from tests.jobs.outages import pragma

TUNED = Tuning("heun", "adg", correction=WaveletCorrection("pix"))


class TestSubmit:
    async def test_gives_a_uuid_and_the_position(self, store: JobStore):
        receipts = [await store.submit(request(), max_waiting=0) for _ in range(3)]
        assert [receipt.position for receipt in receipts if receipt] == [1, 2, 3]
        assert all(UUID(receipt.job_id).version == 4 for receipt in receipts if receipt)

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
            sampler=SamplerOptions(
                steps=27,
                timesteps=(1.0, 0.5, 0.0),
                infer_method="sde",
                tuning=TUNED,
            ),
            planner=PlannerOptions(thinking=True, top_k=40, temperature=0.1 + 0.2),
            warnings=("steps: 60 is more than 8",),
        )
        receipt = await store.submit(asked, max_waiting=0)
        assert receipt is not None
        assert await view(store, receipt.job_id) == JobView(
            Job(receipt.job_id, "queued", asked, created_at=clock.now), position=1, seconds=5.0
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
        assert isinstance(await store.submit(request(), max_waiting=1), Receipt)


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
        await store.finish(Lease(job_id, 1), songs)
        done = await job(store, job_id)
        assert (done.state, done.songs, done.error) == ("succeeded", songs, None)
        assert (done.finished_at, done.work_seconds) == (clock.now, 12.5)

    async def test_fail_keeps_the_reason(self, store: JobStore):
        job_id = await submit(store)
        await claim(store)
        await store.fail(Lease(job_id, 1), "out of memory")
        done = await job(store, job_id)
        assert (done.state, done.songs, done.error) == ("failed", (), "out of memory")

    async def test_a_job_that_does_not_run_cannot_end(self, store: JobStore):
        job_id = await submit(store)
        await store.finish(Lease(job_id, 1), (song("late.mp3"),))
        assert (await job(store, job_id)).state == "queued"
        await claim(store)
        await store.finish(Lease(job_id, 1), (song("a.mp3"),))
        await store.fail(Lease(job_id, 1), "too late")
        assert (await job(store, job_id)).state == "succeeded"

    async def test_a_clock_set_back_makes_no_negative_time(self, store: JobStore, clock: Clock):
        job_id = await submit(store)
        await claim(store)
        clock.now -= 3600
        await store.finish(Lease(job_id, 1), (song("a.mp3"),))
        assert (await job(store, job_id)).work_seconds == 0


class TestRestart:
    async def test_puts_interrupted_jobs_back_in_their_places(self, store: JobStore, path: Path):
        ids = [await submit(store, caption) for caption in "abc"]
        await claim(store)
        await claim(store)
        again = JobStore(path)  # the first one is not closed: neither is that of a server that dies
        assert await again.reclaim(alone=True) == (2, 0)
        found = [view for view in await again.find(ids) if view]
        assert [(view.job.state, view.job.attempts, view.position) for view in found] == [
            ("queued", 1, 1),
            ("queued", 1, 2),
            ("queued", 0, 3),
        ]
        assert [(await claim(again)).request.caption for _ in ids] == ["a", "b", "c"]
        await again.close()

    async def test_gives_up_a_job_at_whose_songs_servers_died_five_times(self, store: JobStore):
        job_id = await submit(store)
        for outcome in (*[(1, 0)] * 4, (0, 1)):
            await store.begin((await claim(store)).lease)
            assert await store.reclaim(alone=True) == outcome
        done = await job(store, job_id)
        assert (done.state, done.error, done.attempts) == ("failed", INTERRUPTED.format(deaths=5), 5)
        assert done.finished_at is not None
        assert await store.claim() is None

    async def test_deaths_before_the_first_step_do_not_count(self, path: Path):
        store = JobStore(path, max_deaths=2)
        job_id = await submit(store)
        await store.begin((await claim(store)).lease)
        for _ in range(8):  # the mark of an earlier attempt is not that of the next
            assert await store.reclaim(alone=True) == (1, 0)
            await claim(store)
        assert await store.reclaim(alone=True) == (1, 0)
        await store.begin((await claim(store)).lease)
        assert await store.reclaim(alone=True) == (0, 1)
        assert (await job(store, job_id)).state == "failed"
        await store.close()

    async def test_a_released_job_has_its_attempt_back(self, store: JobStore):
        first, second = await submit(store), await submit(store)
        for _ in range(5):
            claimed = await claim(store)
            assert claimed.id == first
            assert await store.release([claimed.lease]) == 1
        assert (await job(store, first)).attempts == 0
        assert (await view(store, second)).position == 2

    async def test_keeps_what_ended(self, store: JobStore, path: Path):
        job_id = await submit(store)
        await claim(store)
        await store.finish(Lease(job_id, 1), (song("a.mp3"),))
        before = await job(store, job_id)
        again = JobStore(path)
        assert await again.reclaim(alone=True) == (0, 0)
        assert await job(again, job_id) == before
        await again.close()


class TestOtherVersions:
    async def test_unknown_fields_are_ignored_and_missing_ones_default(self, store: JobStore, path: Path):
        job_id = await submit(store)
        stored = '{"caption": "old", "planner": {"thinking": true, "gone": 1}, "gone": {"x": []}}'
        edit(path, "UPDATE jobs SET request = ?", stored)
        expected = SongRequest(caption="old", planner=PlannerOptions(thinking=True))
        assert (await job(store, job_id)).request == expected
        assert (await claim(store)).request == expected

    async def test_of_requests_those_that_cannot_be_read_fail(self, store: JobStore, path: Path):
        broken, other = await submit(store), await submit(store, "fine")
        edit(path, 'UPDATE jobs SET request = \'{"task_type": "dance"}\' WHERE id = ?', broken)
        assert (await job(store, broken)).error == UNREADABLE
        assert (await claim(store)).id == other
        assert await store.counts() == {"failed": 1, "running": 1}

    async def test_songs_that_cannot_be_read_count_as_failed(self, store: JobStore, path: Path):
        job_id = await submit(store)
        await claim(store)
        await store.finish(Lease(job_id, 1), (song("a.mp3"),))
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
        assert await store.average_seconds(window=2) == 5.0
        for seconds in (100.0, 10.0, 20.0):
            job_id = await submit(store)
            await claim(store)
            clock.now += seconds
            await store.finish(Lease(job_id, 1), (song("a.mp3"),))
        failed = await submit(store)
        await claim(store)
        clock.now += 1000
        await store.fail(Lease(failed, 1), "no")
        assert await store.average_seconds(window=2) == 15.0
        assert await store.average_seconds(window=50) == pytest.approx(130 / 3)
        assert await store.counts() == {"succeeded": 3, "failed": 1}
