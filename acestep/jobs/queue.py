"""The queue as its callers see it: submit, look, count; and take, report, end for the runner.

Everything that must outlive it is in the store.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from threading import Lock
from typing import TypeVar
from weakref import WeakValueDictionary

from acestep.background import Delays, delays
from acestep.domain.song import Progress, Song, SongRequest
from acestep.errors import DataFolderError, QueueFullError
from acestep.jobs.model import Job, JobView, QueueStats, Ticket
from acestep.jobs.store import JobStore
from acestep.jobs.worker import OnProgress

log = logging.getLogger(__name__)

T = TypeVar("T")

PATIENCE = 8  # jobs; a load costs about as much as a few songs

_SUBMIT, _CLAIM = "submit", "claim"


class JobQueue:
    """First in, first out, nearly (see `take`). Lives on one event loop.

    What `reporter` returns may be called from any thread.

    At most `max_waiting` jobs wait (0: any number). A job is said to take the mean of the last
    `average_window` that succeeded, or `average_default` seconds before there are any.
    """

    def __init__(
        self,
        store: JobStore,
        max_waiting: int = 200,
        average_default: float = 5.0,
        average_window: int = 50,
        delays: Delays = delays,
    ) -> None:
        self._store = store
        self._max_waiting = max_waiting
        self._average_default = average_default
        self._average_window = average_window
        self._delays = delays
        self._failing: dict[str, DataFolderError] = {}  # by what is tried again
        self._refused = asyncio.Event()
        self._arrived = asyncio.Event()
        self._passed_over = 0  # jobs in a row that went before an older one
        self._live: dict[str, _LiveProgress] = {}
        # An event lives as long as somebody waits for it.
        self._ends: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()

    async def submit(self, request: SongRequest) -> Ticket:
        """Accept a request; it is on the disk when this returns.

        Raises QueueFullError, InvalidFieldError for audio that is gone, and DataFolderError while the queue
        cannot be kept.
        """
        for error in self._errors(besides=_SUBMIT):  # this is tried anew each time
            raise error.with_traceback(None)
        try:
            ticket = await self._store.submit(request, self._max_waiting)
        except DataFolderError as error:
            self._failing[_SUBMIT] = error
            self._refused.set()
            raise
        self._failing.pop(_SUBMIT, None)
        if ticket is None:
            raise QueueFullError(self._max_waiting, max(1, math.ceil(await self.average_seconds())))
        self._arrived.set()
        return ticket

    async def find(self, ids: Sequence[str]) -> list[JobView | None]:
        """The jobs with these ids, in this order and as often as asked; None where there is none."""
        return [self._with_progress(view) for view in await self._store.find(ids)]

    async def wait(self, job_id: str, seconds: float) -> JobView | None:
        """The job as soon as it has ended, or as it is after `seconds`; None where there is none."""
        ended = self._ends.setdefault(job_id, asyncio.Event())  # before looking, so that no end is missed
        (view,) = await self.find([job_id])
        if view is None or view.job.has_ended:
            return view
        with suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), seconds)
        (view,) = await self.find([job_id])
        return view

    def trouble(self) -> str:
        """Why jobs are neither accepted nor run, and what to do; "" where they are."""
        return next((error.public for error in self._errors()), "")

    async def check_after_refusal(self) -> None:
        """After each submit that failed, try to write until that works again; until cancelled."""
        while True:
            await self._refused.wait()
            self._refused.clear()
            await self._insist(_SUBMIT, self._store.check)

    async def stats(self) -> QueueStats:
        """Counts and the average duration of a job."""
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
        """Settle what an earlier process left running; returns how many were put back and how many failed."""
        return await self._store.recover()

    async def take(self, at_hand: Callable[[], Collection[str | None]] = tuple) -> Job:
        """The next queued job, now running; waits until there is one. For one caller at a time.

        It is the oldest, unless there is one for a model `at_hand`, which need not be loaded first: such go
        before, but no more than PATIENCE in a row. None is the model of a request that names none.
        """
        while True:
            self._arrived.clear()  # before looking, so that what arrives meanwhile wakes us
            models = at_hand() if self._passed_over < PATIENCE else ()
            claim = await self._insist(_CLAIM, partial(self._store.claim, models))
            if claim is not None:
                self._passed_over = 0 if claim.is_oldest else self._passed_over + 1
                self._live[claim.job.id] = _LiveProgress()
                return claim.job
            await self._arrived.wait()

    def reporter(self, job_id: str) -> OnProgress:
        """Where the attempt that was just taken reports its progress."""
        return self._live[job_id].report

    async def finish(self, job_id: str, songs: tuple[Song, ...]) -> None:
        """End a running job well."""
        await self._insist(job_id, partial(self._store.finish, job_id, songs))
        self._leave(job_id)

    async def fail(self, job_id: str, error: str) -> None:
        """End a running job badly; `error` is for the user."""
        await self._insist(job_id, partial(self._store.fail, job_id, error))
        self._leave(job_id)

    async def release_running(self) -> int:
        """Put what still runs back in its place, as if it had not been started; returns how many."""
        released = await self._store.release_running()
        self._live.clear()
        return released

    async def average_seconds(self) -> float:
        """How long a job takes, as far as is known."""
        return await self._store.average_seconds(self._average_window, self._average_default)

    async def _insist(self, what: str, work: Callable[[], Awaitable[T]]) -> T:
        """Return what `work` does; while the database refuses, it is tried again."""
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

    def _leave(self, job_id: str) -> None:
        self._live.pop(job_id, None)
        if ended := self._ends.get(job_id):
            ended.set()

    def _with_progress(self, view: JobView | None) -> JobView | None:
        if view is None or view.job.state != "running":
            return view
        live = self._live.get(view.job.id)
        return replace(view, progress=live.latest if live else _STARTED)


_STARTED = Progress(0.0, "running")


class _LiveProgress:
    """The latest progress of one attempt. Never goes backwards, whatever the order of the reports."""

    def __init__(self) -> None:
        self._lock = Lock()
        self.latest = _STARTED

    def report(self, progress: Progress) -> None:
        with self._lock:
            fraction = min(1.0, max(self.latest.fraction, progress.fraction))
            self.latest = replace(progress, fraction=fraction)
