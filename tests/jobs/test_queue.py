from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from threading import Event

import pytest

from acestep.domain.song import Progress
from acestep.errors import JobDatabaseError, QueueFullError
from acestep.jobs.model import Claim, JobView, QueueStats, Receipt
from acestep.jobs.queue import MAX_OVERTAKES, JobQueue
from acestep.jobs.store import JobStore
from tests.jobs.conftest import Clock
from tests.jobs.fakes import edit, request, song, submit
from tests.jobs.outages import Outage, damaged, each_outage, overwrite


def truncate(path: Path) -> None:
    path.write_bytes(b"")


def take_away(path: Path) -> None:
    path.unlink()


async def view(queue: JobQueue, job_id: str) -> JobView:
    (found,) = await queue.find([job_id])
    assert found is not None
    return found


async def progress(queue: JobQueue, job_id: str) -> Progress | None:
    return (await view(queue, job_id)).progress


class TestSubmit:
    async def test_a_hundred_at_once_have_a_hundred_positions(self, queue: JobQueue):
        receipts = await asyncio.gather(*(queue.submit(request(str(number))) for number in range(100)))
        assert sorted(receipt.position for receipt in receipts) == list(range(1, 101))
        assert len({receipt.job_id for receipt in receipts}) == 100
        found = await queue.find([receipt.job_id for receipt in receipts])
        assert [view.position for view in found if view] == [receipt.position for receipt in receipts]

    async def test_no_more_are_queued_than_allowed_when_many_come_at_once(self, store: JobStore):
        queue = JobQueue(store, max_waiting=10)
        answers = await asyncio.gather(*(queue.submit(request()) for _ in range(50)), return_exceptions=True)
        assert sum(isinstance(answer, QueueFullError) for answer in answers) == 40
        assert (await queue.stats()).queued == 10

    async def test_a_full_queue_says_when_to_come_back(self, store: JobStore, clock: Clock):
        queue = JobQueue(store, max_waiting=1)
        await queue.submit(request())
        with pytest.raises(QueueFullError, match=r"full \(1 jobs waiting\)\. Try again in 5 s"):
            await queue.submit(request())
        job = await queue.take()
        clock.now += 41.2
        await queue.finish(job.id, (song("a.mp3"),))
        await queue.submit(request())
        with pytest.raises(QueueFullError) as full:
            await queue.submit(request())
        assert full.value.retry_after == 42

    async def test_without_a_limit_any_number_may_wait(self, store: JobStore):
        queue = JobQueue(store, max_waiting=0)
        assert [(await queue.submit(request())).position for _ in range(3)] == [1, 2, 3]


class TestTake:
    async def test_waits_until_something_arrives(self, queue: JobQueue):
        taking = asyncio.create_task(queue.take())
        await queue.stats()  # the claim of `take` came before this on the store's thread
        assert not taking.done()
        receipt = await queue.submit(request())
        assert (await asyncio.wait_for(taking, 5)).id == receipt.job_id

    async def test_misses_nothing_that_arrives_while_it_looks(
        self, store: JobStore, queue: JobQueue, monkeypatch: pytest.MonkeyPatch
    ):
        look = store.claim
        receipts: list[Receipt] = []

        async def look_just_too_early(models: Collection[str | None]) -> Claim | None:
            found = await look(models)
            if not receipts:
                receipts.append(await queue.submit(request()))
            return found

        monkeypatch.setattr(store, "claim", look_just_too_early)
        assert (await asyncio.wait_for(queue.take(), 5)).id == receipts[0].job_id

    async def test_finds_a_job_whose_submit_was_cancelled(
        self, store: JobStore, queue: JobQueue, monkeypatch: pytest.MonkeyPatch
    ):
        taking = asyncio.create_task(queue.take())
        await queue.stats()  # the claim of `take` came before this on the store's thread
        writes, goes_on = Event(), Event()

        def clock() -> float:
            writes.set()
            assert goes_on.wait(20)
            return 0.0

        monkeypatch.setattr(store, "_clock", clock)
        submitting = asyncio.create_task(queue.submit(request("kept")))
        assert await asyncio.to_thread(writes.wait, 20)
        submitting.cancel()
        await asyncio.wait([submitting])
        goes_on.set()
        assert (await asyncio.wait_for(taking, 5)).request.caption == "kept"

    async def test_takes_in_the_order_of_arrival(self, queue: JobQueue):
        receipts = await asyncio.gather(*(queue.submit(request()) for _ in range(5)))
        taken = [await queue.take() for _ in range(5)]
        assert [job.id for job in taken] == [receipt.job_id for receipt in receipts]

    async def test_jobs_for_loaded_models_go_first(self, queue: JobQueue):
        for caption, model in (("1", "away"), ("2", None), ("3", "near"), ("4", "away"), ("5", "near")):
            await queue.submit(replace(request(caption), model=model))
        taken = [(await queue.take(lambda: ("near",))).request.caption for _ in range(3)]
        assert taken == ["3", "5", "1"]
        assert (await queue.take(lambda: (None,))).request.caption == "2"
        assert (await queue.take(lambda: ())).request.caption == "4"

    async def test_no_more_than_max_overtakes_go_before_the_oldest(self, queue: JobQueue):
        for caption, model in [
            ("first", "away"),
            ("second", "away"),
            *[("near", "near")] * 2 * MAX_OVERTAKES,
        ]:
            await queue.submit(replace(request(caption), model=model))
        taken = [(await queue.take(lambda: ("near",))).request.caption for _ in range(2 * MAX_OVERTAKES + 2)]
        assert taken == [*["near"] * MAX_OVERTAKES, "first", *["near"] * MAX_OVERTAKES, "second"]

    async def test_a_job_that_cannot_be_read_is_passed_over(self, queue: JobQueue, tmp_path: Path):
        spoilt = await queue.submit(request("spoilt"))
        await queue.submit(replace(request("whole"), model="near"))
        edit(tmp_path / "jobs.sqlite3", "UPDATE jobs SET request = '{' WHERE id = ?", spoilt.job_id)
        assert (await queue.take(lambda: ("near",))).request.caption == "whole"


class TestProgress:
    async def test_is_shown_while_the_job_runs_and_then_only(self, queue: JobQueue):
        receipt = await queue.submit(request())
        assert await progress(queue, receipt.job_id) is None
        job = await queue.take()
        report = queue.reporter(job.id)
        assert await progress(queue, job.id) == Progress(0.0, "running")
        report(Progress(0.5, "render", "step 4 of 8"))
        assert await progress(queue, job.id) == Progress(0.5, "render", "step 4 of 8")
        await queue.finish(job.id, (song("a.mp3"),))
        report(Progress(0.9, "render"))
        assert await progress(queue, job.id) is None

    async def test_never_goes_backwards_but_tells_the_new_stage(self, queue: JobQueue):
        await queue.submit(request())
        job = await queue.take()
        report = queue.reporter(job.id)
        seen = []
        for fraction in (0.2, 0.6, 0.4, float("nan"), 7.0, -1.0):
            report(Progress(fraction, f"at {fraction}"))
            shown = await progress(queue, job.id)
            assert shown is not None
            assert shown.stage == f"at {fraction}"
            seen.append(shown.fraction)
        assert seen == [0.2, 0.6, 0.6, 0.6, 1.0, 1.0]

    async def test_says_why_the_model_of_a_job_keeps_it_waiting(self, store: JobStore):
        notes: dict[str | None, str] = {
            None: "The model a is loading",
            "a": "The model a is loading",
            "b": "",
        }
        queue = JobQueue(store, notes=notes)
        jobs = {name: await queue.submit(replace(request(), model=name)) for name in (None, "a", "b", "gone")}
        waiting = {name: (await view(queue, receipt.job_id)).note for name, receipt in jobs.items()}
        assert waiting == {None: notes[None], "a": notes["a"], "b": "", "gone": notes[None]}
        job = await queue.take()
        assert await progress(queue, job.id) == Progress(0.0, "running", "The model a is loading")
        notes.update({None: "", "a": ""})
        assert await progress(queue, job.id) == Progress(0.0, "running")
        queue.reporter(job.id)(Progress(0.1, "render", "step 1 of 8"))
        notes[None] = "The model a is loading"
        assert await progress(queue, job.id) == Progress(0.1, "render", "step 1 of 8")

    async def test_may_come_from_many_threads(self, queue: JobQueue):
        await queue.submit(request())
        job = await queue.take()
        report = queue.reporter(job.id)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda number: report(Progress(number / 1000, "render")), range(1000, 0, -1)))
        shown = await progress(queue, job.id)
        assert shown is not None
        assert shown.fraction == 1.0

    async def test_belongs_to_one_job(self, queue: JobQueue):
        for _ in range(2):
            await queue.submit(request())
        first, second = await queue.take(), await queue.take()
        queue.reporter(first.id)(Progress(0.7, "write"))
        assert await progress(queue, second.id) == Progress(0.0, "running")

    async def test_begins_anew_with_a_new_attempt(self, queue: JobQueue):
        await queue.submit(request())
        job = await queue.take()
        late = queue.reporter(job.id)
        late(Progress(0.9, "write"))
        await queue.release_running()
        again = await queue.take()
        late(Progress(0.95, "write"))
        assert again.id == job.id
        assert await progress(queue, job.id) == Progress(0.0, "running")


class TestWait:
    async def test_ends_with_the_job_for_every_call(self, queue: JobQueue):
        receipts = [await queue.submit(request()) for _ in range(2)]
        waits = [
            asyncio.create_task(queue.wait(receipt.job_id, 60))
            for receipt in (receipts[0], *receipts, receipts[1])
        ]
        first, second = await queue.take(), await queue.take()
        await queue.finish(first.id, (song("a.mp3"),))
        await queue.fail(second.id, "no memory")
        views = await asyncio.wait_for(asyncio.gather(*waits), 5)
        states = [view.job.state for view in views if view]
        assert states == ["succeeded", "succeeded", "failed", "failed"]

    async def test_ends_after_the_seconds(self, queue: JobQueue):
        receipt = await queue.submit(request())
        shown = await queue.wait(receipt.job_id, 0.001)
        assert shown is not None
        assert (shown.job.state, shown.position) == ("queued", 1)

    async def test_ends_at_once_for_an_ended_or_unknown_job(self, queue: JobQueue):
        await queue.submit(request())
        job = await queue.take()
        await queue.finish(job.id, (song("a.mp3"),))
        shown = await asyncio.wait_for(queue.wait(job.id, 60), 5)
        assert shown is not None
        assert shown.job.songs == (song("a.mp3"),)
        assert await asyncio.wait_for(queue.wait("unknown", 60), 5) is None

    async def test_misses_no_end_that_comes_while_it_looks(
        self, store: JobStore, queue: JobQueue, monkeypatch: pytest.MonkeyPatch
    ):
        await queue.submit(request())
        job = await queue.take()
        look = store.find
        looks = 0

        async def look_just_too_early(ids: list[str]) -> list[JobView | None]:
            nonlocal looks
            found = await look(ids)
            looks += 1
            if looks == 1:
                await queue.finish(job.id, (song("a.mp3"),))
            return found

        monkeypatch.setattr(store, "find", look_just_too_early)
        shown = await asyncio.wait_for(queue.wait(job.id, 60), 5)
        assert shown is not None
        assert shown.job.state == "succeeded"


class TestStats:
    async def test_counts_each_state_and_averages_success(self, queue: JobQueue, clock: Clock):
        assert await queue.stats() == QueueStats(0, 0, 0, 0, 0, max_waiting=200, average_seconds=5.0)
        for _ in range(5):
            await queue.submit(request())
        done, broken, _running = [await queue.take() for _ in range(3)]
        clock.now += 8
        await queue.finish(done.id, (song("a.mp3"),))
        await queue.fail(broken.id, "no")
        stats = await queue.stats()
        assert stats == QueueStats(
            total=5, queued=2, running=1, succeeded=1, failed=1, max_waiting=200, average_seconds=8.0
        )


class TestRefusingDatabase:
    @each_outage
    async def test_take_finish_and_fail_are_tried_until_they_work(
        self, store: JobStore, queue: JobQueue, tmp_path: Path, outage: Outage
    ):
        ids = [(await queue.submit(request(caption))).job_id for caption in "abc"]
        done, broken = await queue.take(), await queue.take()
        with outage(store, tmp_path / "jobs.sqlite3") as sentence:
            asked = asyncio.gather(
                queue.take(), queue.finish(done.id, (song("a.mp3"),)), queue.fail(broken.id, "no")
            )
            assert await trouble(queue) == f"The job database jobs.sqlite3 cannot be used: {sentence}"
            with pytest.raises(JobDatabaseError, match=sentence):
                await queue.submit(request("d"))
            assert not asked.done()
        taken, *_ = await asyncio.wait_for(asked, 5)
        assert queue.trouble() == ""
        assert (await queue.submit(request("d"))).position == 1
        assert taken.id == ids[2]
        states = [(await view(queue, job_id)).job.state for job_id in ids]
        assert states == ["succeeded", "failed", "running"]

    @each_outage
    async def test_the_trouble_of_a_submit_ends_when_the_disk_takes_writes(
        self, store: JobStore, queue: JobQueue, tmp_path: Path, outage: Outage
    ):
        checking = asyncio.create_task(queue.check_after_refusal())
        for _ in range(2):
            with outage(store, tmp_path / "jobs.sqlite3") as sentence:
                for _ in range(2):
                    with pytest.raises(JobDatabaseError, match=sentence):
                        await queue.submit(request())
                assert queue.trouble() == f"The job database jobs.sqlite3 cannot be used: {sentence}"
            await well(queue)
        checking.cancel()
        assert (await queue.submit(request())).position == 1

    @each_outage
    async def test_a_submit_that_works_ends_the_trouble(
        self, store: JobStore, queue: JobQueue, tmp_path: Path, outage: Outage
    ):
        with outage(store, tmp_path / "jobs.sqlite3"), pytest.raises(JobDatabaseError):
            await queue.submit(request())
        assert queue.trouble() != ""
        await queue.submit(request())
        assert queue.trouble() == ""

    async def test_a_damaged_database_takes_no_job(self, tmp_path: Path):
        await damaged(tmp_path / "damaged.sqlite3")
        store = JobStore(tmp_path / "damaged.sqlite3")
        queue = JobQueue(store, delays=lambda: repeat(0.001))
        taking = asyncio.create_task(queue.take())
        assert (await trouble(queue)).startswith("The job database damaged.sqlite3 is damaged (")
        with pytest.raises(JobDatabaseError, match=r"damaged .*Stop the server"):
            await queue.submit(request())
        taking.cancel()
        await store.close()

    async def test_damage_is_remembered(self, store: JobStore, queue: JobQueue):
        store.damage = JobDatabaseError(Path("/data/jobs.sqlite3"), "is damaged.", is_lasting=True)
        await queue.stats()
        assert queue.trouble() == "The job database jobs.sqlite3 is damaged."
        with pytest.raises(JobDatabaseError, match="is damaged"):
            await queue.submit(request())

    @pytest.mark.parametrize("harm", [truncate, overwrite, take_away])
    async def test_the_watch_notices_harm_that_no_request_meets(
        self, tmp_path: Path, harm: Callable[[Path], None]
    ):
        path = tmp_path / "jobs.sqlite3"
        filled = JobStore(path)
        await submit(filled, "la " * 10_000)
        await filled.close()
        store = JobStore(path)
        queue = JobQueue(store, delays=lambda: repeat(0.001))
        watching = asyncio.create_task(queue.watch_database(every=0.001))
        await queue.submit(request())
        harm(path)
        said = await trouble(queue)
        assert said.startswith("The job database jobs.sqlite3 ")
        with pytest.raises(JobDatabaseError, match=r"jobs\.sqlite3 (is damaged|was moved)"):
            await queue.submit(request())
        watching.cancel()
        await store.close()

    async def test_the_watch_notices_that_a_database_is_back(
        self, store: JobStore, queue: JobQueue, tmp_path: Path
    ):
        watching = asyncio.create_task(queue.watch_database(every=0.001))
        away = (tmp_path / "jobs.sqlite3").rename(tmp_path / "away")
        assert "was moved or deleted" in await trouble(queue)
        away.rename(tmp_path / "jobs.sqlite3")
        await well(queue)
        assert (await queue.submit(request())).position == 1
        watching.cancel()


async def trouble(queue: JobQueue) -> str:
    """Wait until the queue has trouble, and return it."""
    async with asyncio.timeout(5):
        while not queue.trouble():  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.001)
    return queue.trouble()


async def well(queue: JobQueue) -> None:
    """Return when the queue has no trouble."""
    async with asyncio.timeout(5):
        while queue.trouble():  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.001)
