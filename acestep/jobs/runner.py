"""Runs the jobs of the queue."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from functools import partial

from acestep.background import BackgroundTasks
from acestep.errors import AceStepError, DataFolderError, JobCancelledError
from acestep.jobs.cleaner import Cleaner
from acestep.jobs.model import Job
from acestep.jobs.queue import JobQueue
from acestep.jobs.store import CANCELLED, LEASE_SECONDS
from acestep.jobs.worker import Worker

log = logging.getLogger(__name__)

RENEW_SECONDS = LEASE_SECONDS / 3
UNWIND_SECONDS = 0.5  # that a cancelled task gets to end


class Runner:
    """Keeps up to `concurrency` calls of `worker.run` in flight."""

    def __init__(
        self,
        queue: JobQueue,
        worker: Worker,
        cleaner: Cleaner,
        concurrency: int = 1,
        grace_seconds: float = 1.0,
        tasks: BackgroundTasks | None = None,
    ) -> None:
        self._queue = queue
        self._worker = worker
        self._cleaner = cleaner
        self._grace_seconds = grace_seconds
        self._tasks = tasks or BackgroundTasks()
        self._slots = asyncio.Semaphore(concurrency)
        self._stopping = False
        self._running: dict[str, _Attempt] = {}
        self._feeding: asyncio.Task[None] | None = None
        self._background: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        requeued, failed = await self._queue.recover()
        if requeued or failed:
            log.warning("The last server died: %d running jobs are queued again, %d failed", requeued, failed)
        self._feeding = self._tasks.keep("job feed", self._feed)
        self._background = {
            self._feeding,
            self._tasks.keep("job leases", self._renew),
            self._tasks.keep("job steps", self._queue.note_steps),
            self._tasks.keep("job cancels", self._cancel),
            self._tasks.keep("file cleaner", self._cleaner.run),
            self._tasks.keep("job database check", self._queue.check_after_refusal),
            self._tasks.keep("job database watch", self._queue.watch_database),
        }

    async def stop(self) -> None:
        """Ask running jobs to stop, and queue again those that do not end within `grace_seconds`."""
        self._stopping = True
        await _cancel(self._background)
        tasks = [attempt.task for attempt in self._running.values()]
        if tasks:
            await asyncio.wait(tasks, timeout=self._grace_seconds)
        await _cancel(tasks)
        try:
            released = await self._queue.release_running()
        except DataFolderError as error:
            log.error("%s The next start queues the running jobs again.", error)
            return
        if released:
            log.info("%d running jobs are queued again for the next start", released)

    async def drain(self, seconds: float) -> None:
        """Take no more jobs, and give those that run `seconds` to end."""
        self._queue.is_stopping = True
        if self._feeding is not None:
            await _cancel([self._feeding])
        tasks = [attempt.task for attempt in self._running.values()]
        if tasks:
            log.info("%d running jobs have %g s to end before the server stops", len(tasks), seconds)
            await asyncio.wait(tasks, timeout=seconds)

    async def _feed(self) -> None:
        while True:
            await self._slots.acquire()
            try:
                job = await self._queue.take(self._loaded, self._worker.wait_ready)
            except BaseException:
                self._slots.release()
                raise
            attempt = _Attempt(job)
            self._running[job.id] = attempt
            attempt.task = self._tasks.run(f"job {job.id}", self._run(attempt))
            attempt.task.add_done_callback(partial(self._leave, job.id))

    def _loaded(self) -> list[str | None]:
        # The names of the loaded models, and None if the default is one; empty if all are loaded.
        infos = self._worker.models()
        ready = [info for info in infos if info.state == "ready"]
        if len(ready) == len(infos):
            return []
        return [*(info.name for info in ready), *(None for info in ready if info is infos[0])]

    def _leave(self, job_id: str, task: asyncio.Task[None]) -> None:
        del self._running[job_id]
        self._slots.release()

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            renewal = await self._queue.renew()
            for job_id in (*renewal.lost, *renewal.cancelling):
                self._end_work(job_id)

    async def _cancel(self) -> None:
        while True:
            job = await self._queue.next_cancel()
            self._end_work(job.id)
            if job.state == "cancelled":  # before it ran
                await self._release(job)

    def _end_work(self, job_id: str) -> None:
        attempt = self._running.get(job_id)
        if attempt is None or attempt.is_cancelled:
            return
        attempt.is_cancelled = True  # ends what threads do, within a step
        if attempt.is_working:
            attempt.task.cancel()  # ends the waiting for them at once

    async def _run(self, attempt: _Attempt) -> None:
        job = attempt.job
        log.info("Job %s runs (attempt %d)", job.id, job.attempts)
        if await self._run_to_end(attempt):
            await self._release(job)

    async def _release(self, job: Job) -> None:
        if job.request.task.source or job.request.task.reference:
            await self._cleaner.release(job.request)

    async def _run_to_end(self, attempt: _Attempt) -> bool:
        # Run a job; False where it goes on elsewhere, such as after a restart.
        job, queue = attempt.job, self._queue

        def cancelled() -> bool:
            return self._stopping or attempt.is_cancelled

        try:
            if attempt.is_cancelled:
                raise JobCancelledError(CANCELLED)
            attempt.is_working = True
            songs = await self._worker.run(job.request, queue.reporter(job.id), cancelled)
            attempt.is_working = False
        except (asyncio.CancelledError, JobCancelledError) as error:
            attempt.is_working = False
            if attempt.is_cancelled:
                attempt.task.uncancel()
                log.info("Job %s is cancelled", job.id)
                return _noted(job, await queue.end_cancelled(job.id))
            if isinstance(error, asyncio.CancelledError):
                raise
            reason, is_verdict = str(error), not self._stopping
        except AceStepError as error:
            reason, is_verdict = str(error), True
            queue.errors[type(error).__name__] += 1
        except Exception as error:  # a job must end, whatever a worker raises
            log.exception("Job %s broke", job.id)
            reason = f"The server failed at this job ({type(error).__name__}); its log says more."
            is_verdict = not self._stopping
            queue.errors[type(error).__name__] += 1
        else:
            return _noted(job, await queue.finish(job.id, songs))
        attempt.is_working = False
        if is_verdict:
            log.info("Job %s failed: %s", job.id, reason)
            return _noted(job, await queue.fail(job.id, reason))
        return False


class _Attempt:
    """A job at work. Its flags are read by other threads."""

    task: asyncio.Task[None]

    def __init__(self, job: Job) -> None:
        self.job = job
        self.is_working = False
        self.is_cancelled = False


def _noted(job: Job, is_held: bool) -> bool:
    if not is_held:
        log.warning("Job %s went to another server or was deleted; what was made of it is dropped", job.id)
    return is_held


async def _cancel(tasks: Collection[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=UNWIND_SECONDS)
