"""Feeds the queue to a worker: take a job, run it, write down how it ended."""

from __future__ import annotations

import asyncio
import logging

from acestep.background import BackgroundTasks
from acestep.errors import AceStepError, DataFolderError, JobCancelledError
from acestep.jobs.cleaner import Cleaner
from acestep.jobs.model import Job
from acestep.jobs.queue import JobQueue
from acestep.jobs.worker import Worker

log = logging.getLogger(__name__)

# How long a worker gets to unwind once its call was cancelled.
UNWIND_SECONDS = 1.0


class Runner:
    """Keeps up to `concurrency` calls of `worker.run` in flight between `start` and `stop`.

    A running job has `grace_seconds` to end when the server stops; then it goes back to the queue.
    """

    def __init__(
        self,
        queue: JobQueue,
        worker: Worker,
        cleaner: Cleaner,
        concurrency: int = 1,
        grace_seconds: float = 5.0,
        tasks: BackgroundTasks | None = None,
    ) -> None:
        self._queue = queue
        self._worker = worker
        self._cleaner = cleaner
        self._grace_seconds = grace_seconds
        self._tasks = tasks or BackgroundTasks()
        self._slots = asyncio.Semaphore(concurrency)
        self._stopping = False
        self._running: set[asyncio.Task[None]] = set()
        self._background: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Settle what an earlier process left behind and begin; does not wait for the worker."""
        requeued, failed = await self._queue.recover()
        if requeued or failed:
            log.warning("The last server died at work: %d jobs are queued again, %d failed", requeued, failed)
        self._background = {
            self._tasks.keep("The job feed", self._feed),
            self._tasks.keep("The cleaner of old files", self._cleaner.run),
            self._tasks.keep("The check of the job database", self._queue.check_after_refusal),
        }

    async def stop(self) -> None:
        """Ask running jobs to stop, wait a little, and put back those that did not end."""
        self._stopping = True
        await _cancel(self._background)
        if self._running:
            await asyncio.wait(self._running, timeout=self._grace_seconds)
        await _cancel(self._running)
        try:
            released = await self._queue.release_running()
        except DataFolderError as error:
            log.error("%s The next start puts the running jobs back.", error)
            return
        if released:
            log.info("%d jobs were put back and run again at the next start", released)

    async def _feed(self) -> None:
        while True:
            await self._slots.acquire()
            try:
                await self._worker.wait_ready()  # each time: a worker that got stuck fails no more jobs
                job = await self._queue.take(self._at_hand)
            except BaseException:
                self._slots.release()
                raise
            task = self._tasks.run(f"Job {job.id}", self._run(job))
            self._running.add(task)
            task.add_done_callback(self._leave)

    def _at_hand(self) -> list[str | None]:
        """The models in memory by name, None for the default; nothing where that is all there are."""
        infos = self._worker.models()
        ready = [info for info in infos if info.state == "ready"]
        if len(ready) == len(infos):
            return []
        return [*(info.name for info in ready), *(None for info in ready if info is infos[0])]

    def _leave(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._slots.release()

    async def _run(self, job: Job) -> None:
        log.info("Job %s runs (attempt %d)", job.id, job.attempts)
        if await self._ends(job):
            await self._cleaner.release(job.request)

    async def _ends(self, job: Job) -> bool:
        """Run a job; False if it only stopped because the server does, and `stop` must put it back."""
        try:
            songs = await self._worker.run(job.request, self._queue.reporter(job.id), lambda: self._stopping)
            await self._queue.finish(job.id, songs)
        except JobCancelledError as error:
            reason, is_verdict = str(error), not self._stopping
        except AceStepError as error:
            reason, is_verdict = str(error), True
        except Exception as error:  # a job must end, whatever a worker raises
            log.exception("Job %s broke", job.id)
            reason = f"The server failed at this job ({type(error).__name__}); its log says more."
            is_verdict = not self._stopping
        else:
            return True
        if is_verdict:
            log.info("Job %s failed: %s", job.id, reason)
            await self._queue.fail(job.id, reason)
        return is_verdict


async def _cancel(tasks: set[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=UNWIND_SECONDS)
