"""Leases, cancelling and the log of events."""

from __future__ import annotations

from acestep.jobs.model import Lease, Renewal
from acestep.jobs.store import CANCELLED, LEASE_SECONDS, MAX_DEATHS, JobStore
from tests.jobs.conftest import Clock
from tests.jobs.fakes import claim, job, song, submit, view


async def told(store: JobStore, job_id: str | None = None) -> list[tuple[str, dict[str, object]]]:
    return [(event.kind, dict(event.data)) for event in await store.events(0, job_id)]


class TestLeases:
    async def test_a_lease_that_ran_out_is_given_to_another(self, store: JobStore, clock: Clock):
        job_id = await submit(store)
        first = (await claim(store)).lease
        clock.now += LEASE_SECONDS - 0.1
        assert await store.reclaim() == (0, 0)
        clock.now += 0.2
        assert await store.reclaim() == (1, 0)
        second = (await claim(store)).lease
        assert (first, second) == (Lease(job_id, 1), Lease(job_id, 2))

    async def test_reports_of_a_former_holder_are_refused(self, store: JobStore):
        job_id = await submit(store)
        first = (await claim(store)).lease
        await store.reclaim(alone=True)
        second = (await claim(store)).lease
        assert not await store.finish(first, (song("late.mp3"),))
        assert not await store.fail(first, "late")
        assert not await store.end_cancelled(first)
        assert await store.release([first]) == 0
        await store.begin(first)
        assert await store.renew([first]) == Renewal(lost=(job_id,))
        for _ in range(MAX_DEATHS):  # begun by the former holder alone
            assert await store.reclaim(alone=True) == (1, 0)
            second = (await claim(store)).lease
        await store.reclaim(alone=True)
        third = (await claim(store)).lease
        assert not await store.finish(second, (song("late.mp3"),))
        assert await store.finish(third, (song("right.mp3"),))
        assert [each.file for each in (await job(store, job_id)).songs] == ["right.mp3"]
        assert not await store.finish(third, (song("twice.mp3"),))

    async def test_renewal_keeps_a_job_however_long_it_takes(self, store: JobStore, clock: Clock):
        await submit(store)
        lease = (await claim(store)).lease
        for _ in range(10):
            clock.now += LEASE_SECONDS / 3
            assert await store.renew([lease]) == Renewal()
            assert await store.reclaim() == (0, 0)

    async def test_a_late_renewal_counts_while_nothing_else_has_the_job(self, store: JobStore, clock: Clock):
        lease = Lease(await submit(store), 1)
        await claim(store)
        clock.now += 3600  # a laptop that slept
        assert await store.renew([lease]) == Renewal()
        assert await store.reclaim() == (0, 0)

    async def test_of_several_those_that_ended_are_lost(self, store: JobStore):
        ids = [await submit(store) for _ in range(3)]
        leases = [(await claim(store)).lease for _ in ids]
        await store.finish(leases[1], ())
        await store.cancel(ids[2])
        assert await store.renew(leases) == Renewal(lost=(ids[1],), cancelling=(ids[2],))


class TestCancel:
    async def test_a_queued_job_is_cancelled_at_once(self, store: JobStore, clock: Clock):
        first, second = await submit(store), await submit(store)
        clock.now += 5
        cancelled = await store.cancel(first)
        assert cancelled is not None
        done = cancelled.job
        assert (done.state, done.error, done.finished_at) == ("cancelled", CANCELLED, clock.now)
        assert (await view(store, second)).position == 1
        assert (await claim(store)).id == second

    async def test_a_running_job_is_marked_and_ended_by_its_holder(self, store: JobStore):
        job_id = await submit(store)
        lease = (await claim(store)).lease
        marked = await store.cancel(job_id)
        assert marked is not None
        assert (marked.job.state, marked.job.is_cancelling) == ("running", True)
        assert await store.end_cancelled(lease)
        done = await job(store, job_id)
        assert (done.state, done.error, done.is_cancelling) == ("cancelled", CANCELLED, False)

    async def test_a_job_whose_server_died_while_it_was_cancelled_does_not_run_again(self, store: JobStore):
        job_id = await submit(store)
        await claim(store)
        await store.cancel(job_id)
        assert await store.reclaim(alone=True) == (0, 0)
        assert (await job(store, job_id)).state == "cancelled"

    async def test_what_has_ended_stays_as_it_is(self, store: JobStore):
        job_id = await submit(store)
        await store.finish((await claim(store)).lease, (song("a.mp3"),))
        before = await view(store, job_id)
        assert await store.cancel(job_id) == before
        assert await store.cancel(job_id) == before
        assert await store.cancel("unknown") is None


class TestEvents:
    async def test_each_change_has_one_in_the_order_of_time(self, store: JobStore):
        first, second = await submit(store), await submit(store)
        await claim(store)
        await store.reclaim(alone=True)
        await store.finish((await claim(store)).lease, (song("a.mp3"), song("b.mp3")))
        lease = (await claim(store)).lease
        await store.release([lease])
        await store.fail((await claim(store)).lease, "no memory")
        assert await told(store, first) == [
            ("queued", {"position": 1}),
            ("started", {"attempt": 1}),
            ("requeued", {"reason": "interrupted"}),
            ("started", {"attempt": 2}),
            ("song", {"index": 0, "file": "a.mp3", "caption": "a song"}),
            ("song", {"index": 1, "file": "b.mp3", "caption": "a song"}),
            ("succeeded", {}),
        ]
        assert await told(store, second) == [
            ("queued", {"position": 2}),
            ("started", {"attempt": 1}),
            ("requeued", {"reason": "stopped"}),
            ("started", {"attempt": 1}),
            ("failed", {"error": "no memory"}),
        ]
        events = await store.events(0)
        assert [event.number for event in events] == list(range(1, 13))
        assert await store.events(10) == events[10:]
        assert await store.events(0, limit=3) == events[:3]
        assert await store.last_event() == 12

    async def test_a_refused_report_has_none(self, store: JobStore):
        job_id = await submit(store)
        await store.finish(Lease(job_id, 7), (song("a.mp3"),))
        await store.fail(Lease(job_id, 7), "no")
        assert await told(store) == [("queued", {"position": 1})]

    async def test_they_go_with_their_job_and_numbers_are_not_used_again(self, store: JobStore):
        job_id, deleted = await submit(store), list[str]()
        assert not await store.delete(job_id, deleted.append), "it has not ended"
        await store.finish((await claim(store)).lease, (song("a.mp3"),))
        assert await store.delete(job_id, deleted.append)
        assert (deleted, await told(store), await store.find([job_id])) == (["a.mp3"], [], [None])
        assert not await store.delete(job_id, deleted.append)
        await submit(store)
        assert [event.number for event in await store.events(0)] == [5]


class TestNewest:
    async def test_pages_from_the_newest_to_the_oldest(self, store: JobStore):
        ids = [await submit(store, str(number)) for number in range(5)]
        await store.finish((await claim(store)).lease, ())
        await claim(store)

        async def listed(*states: str, after: str | None = None, limit: int = 10) -> list[str]:
            found = await store.newest(states, after, limit)  # type: ignore[arg-type]
            return [each.job.request.caption for each in found]

        assert await listed() == ["4", "3", "2", "1", "0"]
        assert await listed(limit=2) == ["4", "3"]
        assert await listed(after=ids[3], limit=2) == ["2", "1"]
        assert await listed(after=ids[0]) == []
        assert await listed("succeeded", "running") == ["1", "0"]
        assert await listed("queued", after=ids[4]) == ["3", "2"]
        assert [each.position for each in await store.newest(["queued"], None, 10)] == [3, 2, 1]

    async def test_a_song_that_was_told_is_not_told_again_by_the_same_attempt(self, store: JobStore):
        job_id = await submit(store)
        lost = (await claim(store)).lease
        assert await store.note_song(lost, 1, song("lost.mp3"))
        await store.reclaim(alone=True)
        lease = (await claim(store)).lease
        assert not await store.note_song(lost, 0, song("late.mp3"))
        assert await store.note_song(lease, 1, song("b.mp3"))
        await store.finish(lease, (song("a.mp3"), song("b.mp3")))
        assert not await store.note_song(lease, 0, song("late.mp3"))
        files = [data["file"] for kind, data in await told(store, job_id) if kind == "song"]
        assert files == ["lost.mp3", "b.mp3", "a.mp3"]
