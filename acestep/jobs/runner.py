"""Runs the jobs of the queue."""

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
        self._running: set[asyncio.Task[None]] = set()
        self._background: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        requeued, failed = await self._queue.recover()
        if requeued or failed:
            log.warning("The last server died: %d running jobs are queued again, %d failed", requeued, failed)
        self._background = {
            self._tasks.keep("job feed", self._feed),
            self._tasks.keep("file cleaner", self._cleaner.run),
            self._tasks.keep("job database check", self._queue.check_after_refusal),
            self._tasks.keep("job database watch", self._queue.watch_database),
        }

    async def stop(self) -> None:
        """Ask running jobs to stop, and queue again those that do not end within `grace_seconds`."""
        self._stopping = True
        await _cancel(self._background)
        if self._running:
            await asyncio.wait(self._running, timeout=self._grace_seconds)
        await _cancel(self._running)
        try:
            released = await self._queue.release_running()
        except DataFolderError as error:
            log.error("%s The next start queues the running jobs again.", error)
            return
        if released:
            log.info("%d running jobs are queued again for the next start", released)

    async def _feed(self) -> None:
        while True:
            await self._slots.acquire()
            try:
                await self._worker.wait_ready()  # each time, since a stuck worker would fail every job
                job = await self._queue.take(self._loaded)
            except BaseException:
                self._slots.release()
                raise
            task = self._tasks.run(f"job {job.id}", self._run(job))
            self._running.add(task)
            task.add_done_callback(self._leave)

    def _loaded(self) -> list[str | None]:
        # The names of the loaded models, and None if the default is one; empty if all are loaded.
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
        ended, task = await self._run_to_end(job), job.request.task
        if ended and (task.source or task.reference):
            await self._cleaner.release(job.request)

    async def _run_to_end(self, job: Job) -> bool:
        # Run a job; False if only the stop of the server ended it, so that `stop` must queue it again.
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
