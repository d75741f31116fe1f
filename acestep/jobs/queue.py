"""The queue: what clients do with jobs, and what the runner does. The store keeps what must last."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from threading import Lock
from types import MappingProxyType
from typing import TypeVar
from weakref import WeakValueDictionary

from acestep.background import Delays, delays
from acestep.domain.song import Progress, Song, SongRequest
from acestep.errors import DataFolderError, QueueFullError, ServerStoppingError
from acestep.jobs.counters import Numbers, numbers
from acestep.jobs.history import submission
from acestep.jobs.model import (
    ENDED,
    Hook,
    Job,
    JobEvent,
    JobState,
    JobView,
    Lease,
    Once,
    QueueStats,
    Receipt,
    Renewal,
)
from acestep.jobs.store import JobStore
from acestep.jobs.worker import OnProgress

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_OVERTAKES = 8  # jobs; to load a model takes about as long as a few songs

WATCH_SECONDS = 2.0
WATCH_PAUSES = 50  # times as long as reading the whole database takes: 2 % of a core

_SUBMIT, _CLAIM, _WATCH, _RENEW = "submit", "claim", "watch", "renew"


async def _ready() -> None: ...


class JobQueue:
    """While the database refuses, `submit` raises, and `take`, `finish` and `fail` try again."""

    def __init__(
        self,
        store: JobStore,
        max_waiting: int = 200,
        devices: int = 1,  # that compute at a time
        average_window: int = 50,
        delays: Delays = delays,
        notes: Mapping[str | None, str] = MappingProxyType({}),
    ) -> None:
        # Why the jobs of a model (None: the default) do not run yet; "" where nothing keeps them.
        self._notes = notes
        self._store = store
        self._max_waiting = max_waiting
        self._devices = devices
        self._average_window = average_window
        self._delays = delays
        self._failing: dict[str, DataFolderError] = {}  # by what is tried again
        self._refused = asyncio.Event()
        self._arrived = asyncio.Event()
        self._overtakes = 0  # jobs in a row that went before an older one
        self._running: dict[str, _Running] = {}
        self._to_note: asyncio.Queue[tuple[Lease, Callable[[], Awaitable[object]]]] = asyncio.Queue()
        self._cancels: asyncio.Queue[Job] = asyncio.Queue()
        self.listeners = Listeners()
        self.is_stopping = False  # jobs are not accepted any more
        self.errors: Counter[str] = Counter()  # that failed jobs, by class
        # An event is kept as long as a call waits for it.
        self._ends: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()

    async def submit(
        self, request: SongRequest, once: Once | None = None, hook: Hook | None = None
    ) -> Receipt:
        """Raises QueueFullError, InvalidFieldError for audio that is gone, and DataFolderError."""
        if self.is_stopping:
            raise ServerStoppingError
        for error in self._errors(besides=_SUBMIT):  # a failed submit does not stop the next
            raise error.with_traceback(None)
        try:
            receipt = await self._store.submit(
                request, self._max_waiting, self._busy() * self._devices, once, hook
            )
        except DataFolderError as error:
            self._failing[_SUBMIT] = error
            self._refused.set()
            raise
        finally:
            self._arrived.set()  # also where the caller is cancelled, as the store still writes the job
        self._failing.pop(_SUBMIT, None)
        if receipt is None:
            raise QueueFullError(self._max_waiting, max(1, math.ceil(await self.average_seconds())))
        if hook is not None:
            self.listeners.hooked.add(receipt.job_id)
        self.listeners.wake(receipt.job_id)
        return replace(receipt, eta=receipt.seconds / self._devices)

    async def submission(self, name: str) -> tuple[Once, Receipt] | None:
        """What was submitted under that name in the last 24 hours, and the answer."""
        now = self._store.now()
        found = await self._store.call(lambda database: submission(database, name, now))
        return found and (found[0], replace(found[1], eta=found[1].seconds / self._devices))

    async def find(self, ids: Sequence[str]) -> list[JobView | None]:
        return [self._with_progress(view) for view in await self._store.find(ids)]

    async def newest(
        self, states: Sequence[JobState] = (), after: str | None = None, limit: int = 50
    ) -> list[JobView]:
        """Jobs in one of `states` (none: any), the newest first, from the one before `after` on."""
        found = await self._store.newest(states, after, limit)
        return [view for each in found if (view := self._with_progress(each))]

    def at_work(self) -> list[JobView]:
        """The jobs that run here."""
        jobs = self._running.values()
        return [JobView(each.job, progress=each.latest, eta=self._busy(each.left())) for each in jobs]

    async def events(self, after: int, job_id: str | None = None) -> tuple[JobEvent, ...]:
        """What happened after the event of that number, to one job or to all (None)."""
        return await self._store.events(after, job_id)

    async def last_event(self) -> int:
        return await self._store.last_event()

    async def delete(self, job_id: str, delete: Callable[[str], None]) -> bool:
        """Delete a job that has ended, and its files; False if there is none."""
        is_deleted = await self._store.delete(job_id, delete)
        self.listeners.wake(job_id)
        return is_deleted

    async def wait(self, job_id: str, seconds: float) -> JobView | None:
        """The job once it has ended, or as it is after `seconds`."""
        ended = self._ends.setdefault(job_id, asyncio.Event())  # before the look, so that no end is missed
        (view,) = await self.find([job_id])
        if view is None or view.job.state in ENDED:
            return view
        with suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), seconds)
        (view,) = await self.find([job_id])
        return view

    def trouble(self) -> str:
        """Why jobs are not accepted or not run, and what to do; "" if they are."""
        return next((error.public for error in self._errors()), "")

    async def check_after_refusal(self) -> None:
        while True:  # so that the trouble ends without another submit
            await self._refused.wait()
            self._refused.clear()
            await self._retry(_SUBMIT, self._store.check)

    async def watch_database(self, every: float = WATCH_SECONDS) -> None:
        """Notice damage although no request needs the damaged page, or any."""
        pages_at = 0.0
        while True:
            began = time.monotonic()
            pages = began >= pages_at
            await self._retry(_WATCH, partial(self._store.inspect, pages))
            if pages:
                pages_at = began + max(every, WATCH_PAUSES * (time.monotonic() - began))
            await asyncio.sleep(every)

    async def numbers(self) -> Numbers:
        return await self._store.call(numbers)

    async def stats(self) -> QueueStats:
        counts = await self._store.counts()
        return QueueStats(
            total=sum(counts.values()),
            queued=counts.get("queued", 0),
            running=counts.get("running", 0),
            succeeded=counts.get("succeeded", 0),
            failed=counts.get("failed", 0),
            max_waiting=self._max_waiting,
            average_seconds=await self.average_seconds(),
        )

    async def recover(self) -> tuple[int, int]:
        """Queue again the jobs of a server that is gone, or fail them; returns both counts."""
        return await self._store.reclaim(alone=True)

    async def take(
        self,
        loaded: Callable[[], Collection[str | None]] = tuple,
        ready: Callable[[], Awaitable[None]] = _ready,
    ) -> Job:
        """Wait for a job, and until it can run (`ready`); it runs from now on. For one caller at a time.

        Jobs for `loaded` models (None: the default) go first, but at most MAX_OVERTAKES in a row.
        """
        while True:
            await ready()  # each time, since a stuck worker would fail every job
            self._arrived.clear()  # before the look, so that no arrival is missed
            models = loaded() if self._overtakes < MAX_OVERTAKES else ()
            claim = await self._retry(_CLAIM, partial(self._store.claim, models))
            if claim is not None:
                self._overtakes = 0 if claim.is_oldest else self._overtakes + 1
                self._running[claim.job.id] = _Running(claim.job, claim.seconds)
                self.listeners.wake(claim.job.id)
                return claim.job
            await self._arrived.wait()

    def reporter(self, job_id: str) -> OnProgress:
        running, loop = self._running[job_id], asyncio.get_running_loop()
        lease = running.job.lease

        def report(progress: Progress) -> None:  # from any thread
            if running.report(progress):
                loop.call_soon_threadsafe(
                    self._to_note.put_nowait, (lease, partial(self._store.begin, lease))
                )
            if progress.made:
                work = partial(self._store.note_song, lease, *progress.made)
                loop.call_soon_threadsafe(self._to_note.put_nowait, (lease, work))
            self.listeners.note_progress(job_id)

        return report

    async def note_steps(self) -> None:
        """Note in the database which jobs have made their first step, and their first songs."""
        while True:
            lease, work = await self._to_note.get()
            await self._retry(lease.job_id, work)
            self.listeners.wake(lease.job_id)

    async def finish(self, job_id: str, songs: tuple[Song, ...]) -> bool:
        """False where the job is no longer held, so that nothing has changed; so do the next two."""
        return await self._end(job_id, partial(self._store.finish, self._lease(job_id), songs))

    async def fail(self, job_id: str, error: str) -> bool:
        return await self._end(job_id, partial(self._store.fail, self._lease(job_id), error))

    async def end_cancelled(self, job_id: str) -> bool:
        return await self._end(job_id, partial(self._store.end_cancelled, self._lease(job_id)))

    async def cancel(self, job_id: str) -> JobView | None:
        """Cancel a job and return it, running for a moment more or ended; None: it is not known."""
        view = await self._store.cancel(job_id)
        if view is not None and (view.job.state == "cancelled" or view.job.is_cancelling):
            self._cancels.put_nowait(view.job)
            if view.job.state == "cancelled":
                self._announce_end(job_id)
        return self._with_progress(view)

    async def next_cancel(self) -> Job:
        """The next job of which a client wants no more. For one caller at a time."""
        return await self._cancels.get()

    async def renew(self) -> Renewal:
        """Keep the running jobs, and take over those of servers that are gone."""
        leases = [running.job.lease for running in self._running.values()]
        renewal = await self._retry(_RENEW, partial(self._store.renew, leases)) if leases else Renewal()
        if any(await self._retry(_RENEW, self._store.reclaim)):
            self._arrived.set()
        return renewal

    async def release_running(self) -> int:
        """Queue the running jobs again as if they had never started; returns how many."""
        released = await self._store.release([running.job.lease for running in self._running.values()])
        self._running.clear()
        return released

    def _lease(self, job_id: str) -> Lease:
        running = self._running.get(job_id)
        return running.job.lease if running else Lease(job_id, 0)

    async def _end(self, job_id: str, work: Callable[[], Awaitable[bool]]) -> bool:
        is_mine = await self._retry(job_id, work)
        self._announce_end(job_id)
        return is_mine

    async def average_seconds(self) -> float:
        return await self._store.average_seconds(self._average_window)

    async def _retry(self, what: str, work: Callable[[], Awaitable[T]]) -> T:
        waits = self._delays()
        while True:
            try:
                done = await work()
            except DataFolderError as error:
                delay = next(waits)
                self._failing[what] = error
                log.error("%s Trying again in %g s.", error, delay)
                await asyncio.sleep(delay)
            else:
                self._failing.pop(what, None)
                return done

    def _errors(self, besides: str = "") -> list[DataFolderError]:
        failing = [error for what, error in self._failing.items() if what != besides]
        return [self._store.damage, *failing] if self._store.damage else failing

    def _announce_end(self, job_id: str) -> None:
        self._running.pop(job_id, None)
        self.listeners.wake(job_id)
        if ended := self._ends.get(job_id):
            ended.set()

    def _with_progress(self, view: JobView | None) -> JobView | None:
        if view is None or view.job.state in ENDED:
            return view
        if view.job.state == "queued":
            return replace(view, note=self._note(view.job), eta=self._busy() + view.seconds / self._devices)
        known = self._running.get(view.job.id)
        progress = known.latest if known else _STARTED
        if progress == _STARTED:
            progress = replace(progress, text=self._note(view.job))
        return replace(view, progress=progress, eta=self._busy(known.left()) if known else None)

    def _busy(self, most: float = math.inf) -> float:
        # Seconds of work that the running jobs have left, of each at most so many: they take turns.
        return sum(min(most, running.left()) for running in self._running.values()) / self._devices

    def _note(self, job: Job) -> str:
        return self._notes.get(job.request.model, self._notes.get(None, ""))


_STARTED = Progress(0.0, "running")


class _Running:
    """A job that is held, and its progress."""

    def __init__(self, job: Job, seconds: float) -> None:
        self.job = job
        self._seconds = seconds
        self.latest = _STARTED
        self._lock = Lock()

    def left(self) -> float:
        """Seconds until it is done, as far as is known."""
        return self._seconds * (1.0 - self.latest.fraction)

    def report(self, progress: Progress) -> bool:
        """From any thread; whether it is the first report."""
        with self._lock:
            is_first = self.latest is _STARTED
            # Reports may come out of order.
            fraction = min(1.0, max(self.latest.fraction, progress.fraction))
            self.latest = replace(progress, fraction=fraction)
        return is_first


class Listener:
    def __init__(self) -> None:
        self.changed = asyncio.Event()
        self.has_news = True  # events in the log, and not progress alone


class Listeners:
    """Wakes what listens to a job, or to all (None). Lives on one event loop."""

    def __init__(self) -> None:
        self._by_job: defaultdict[str | None, set[Listener]] = defaultdict(set)
        self.hooked: set[str] = set()  # jobs whose events are sent to their clients
        self.hook_news = asyncio.Event()  # of one of these
        self._loop: asyncio.AbstractEventLoop | None = None

    @contextmanager
    def listening(self, job_id: str | None) -> Iterator[Listener]:
        """A listener whose event is set at each change; it clears that itself."""
        self._loop = asyncio.get_running_loop()
        listener = Listener()
        self._by_job[job_id].add(listener)
        try:
            yield listener
        finally:
            self._by_job[job_id].discard(listener)
            if not self._by_job[job_id]:
                del self._by_job[job_id]

    def wake(self, job_id: str, has_news: bool = True) -> None:
        if has_news and job_id in self.hooked:
            self.hook_news.set()
        for key in (job_id, None):
            for listener in self._by_job.get(key, ()):
                listener.has_news |= has_news
                listener.changed.set()

    def note_progress(self, job_id: str) -> None:
        """From any thread."""
        if self._loop is not None and (job_id in self._by_job or None in self._by_job):
            self._loop.call_soon_threadsafe(self.wake, job_id, False)
