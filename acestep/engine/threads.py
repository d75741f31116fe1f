"""Whether the engine's threads get on with their work.

A thread cannot be killed: what it was at is given up, its outcome is nobody's, and until it comes back
nothing else can run there. It is not replaced, as two threads must not use one model.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Protocol, TypeVar

from acestep.errors import JobCancelledError, StageStuckError

T = TypeVar("T")

log = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0  # how often a thread is looked after that is known to be stuck

_GLANCE_SECONDS = 0.05  # and one that is expected to end


class Pulse(Protocol):
    """A thread that makes progress, or does not. Callable from any thread."""

    @property
    def stage(self) -> str:
        """What it is at, or was last."""
        ...

    def silence(self) -> float:
        """Seconds since the work at hand made progress; 0 where there is none."""
        ...


class Watchdog:
    """Watches threads, each of which may be silent for `patience` seconds (0: as long as it likes)."""

    def __init__(self, patience: float = 0.0) -> None:
        self._patience = patience
        self._look = min(_LOOK_SECONDS, patience)
        self._pulses: list[Pulse] = []

    def apart(self) -> Watchdog:
        """Another one as patient, for a thread whose work nobody else's waits for: it is no trouble here."""
        return Watchdog(self._patience)

    def add(self, pulse: Pulse) -> None:
        """Watch this one from now on."""
        self._pulses.append(pulse)

    def forget(self, pulse: Pulse) -> None:
        """Watch this one no more, unless it is stuck."""
        if pulse in self._pulses and not self.is_stuck(pulse):
            self._pulses.remove(pulse)

    def is_stuck(self, pulse: Pulse) -> bool:
        """Whether it has been silent for too long, and still is."""
        return 0.0 < self._patience <= pulse.silence()

    def trouble(self) -> str:
        """What is stuck, and what the operator should do about it; "" where nothing is."""
        return " ".join(
            f"Stage {pulse.stage} has made no progress for {pulse.silence():.0f} s: its thread is stuck, and "
            "jobs wait. Restart the server: waiting jobs are kept. If the stage is only slow, raise "
            "ACESTEP_STAGE_TIMEOUT."
            for pulse in self._pulses
            if self.is_stuck(pulse)
        )

    def check(self) -> None:
        """Raise StageStuckError where anything is stuck: nothing is to be changed then."""
        for pulse in self._pulses:
            if self.is_stuck(pulse):
                raise StageStuckError(pulse.stage, self._patience)

    async def wait_well(self) -> None:
        """Return once nothing is stuck."""
        while True:
            if not self.trouble():
                return
            await asyncio.sleep(self._look)

    async def watch(
        self, work: asyncio.Future[T], pulse: Pulse, is_at_it: Callable[[], bool] = lambda: True
    ) -> T:
        """What `work` comes to, which the thread of `pulse` does, or will do when it `is_at_it`.

        Raises StageStuckError when that thread is stuck at it; what becomes of it later, nobody hears.
        """
        try:
            while self._patience and not work.done():
                left = max(self._look, self._patience - pulse.silence())
                await asyncio.wait({work}, timeout=left)
                if not work.done() and is_at_it() and self.is_stuck(pulse):
                    work.add_done_callback(_forget)
                    log.critical("%s", self.trouble())
                    raise StageStuckError(pulse.stage, self._patience)
            return await work
        except asyncio.CancelledError:
            work.cancel()
            raise

    async def until(
        self, event: asyncio.Event, pulse: Pulse, is_at_it: Callable[[], bool] = lambda: True
    ) -> None:
        """Wait for what the thread of `pulse` brings about, as `watch` does."""
        if event.is_set():
            return
        coming = asyncio.ensure_future(event.wait())
        try:
            await self.watch(coming, pulse, is_at_it)
        finally:
            coming.cancel()

    async def until_quiet(self, pulse: Pulse) -> None:
        """Return once its thread has no work at hand. Raises StageStuckError if that does not end."""
        while pulse.silence():
            if self.is_stuck(pulse):
                raise StageStuckError(pulse.stage, self._patience)
            await asyncio.sleep(_GLANCE_SECONDS)


def _forget(work: asyncio.Future[T]) -> None:
    if not work.cancelled():
        work.exception()


class WatchedThread:
    """Work for the one thread of `executor`. Lives on one event loop; `beat` is called from that thread."""

    def __init__(self, executor: Executor, watchdog: Watchdog) -> None:
        self._executor = executor
        self._watchdog = watchdog
        self._at_work: _Task | None = None
        watchdog.add(self)

    @property
    def stage(self) -> str:
        task = self._at_work
        return task.stage if task else ""

    def silence(self) -> float:
        task = self._at_work
        return time.monotonic() - task.last_beat if task else 0.0

    async def run(self, stage: str, work: Callable[[], T]) -> T:
        """What `work` returns, which is work for `stage`. Raises StageStuckError if it makes no progress."""
        task, future = self._begin(stage, work)
        try:
            return await self._watch(task, future)
        except StageStuckError:
            task.given_up = True
            raise

    async def see_through(self, stage: str, work: Callable[[], T]) -> T:
        """As `run`, but where it is stuck it is not given up: what it returns is used, however late.

        Only who cancels this gives it up.
        """
        task, future = self._begin(stage, work)
        try:
            with suppress(StageStuckError):
                return await self._watch(task, future)
            return await future
        except asyncio.CancelledError:
            task.given_up = True
            raise

    def close(self) -> None:
        """Begin nothing more; does not wait for what is at work."""
        self._executor.shutdown(wait=False, cancel_futures=True)
        self._watchdog.forget(self)

    def beat(self) -> None:
        """The work at hand made progress. Raises JobCancelledError where it has been given up."""
        task = self._at_work
        if task is not None:
            if task.given_up:
                raise JobCancelledError(f"Stage {task.stage} was given up.")
            self._say_if_back(task)
            task.last_beat = time.monotonic()

    def _begin(self, stage: str, work: Callable[[], T]) -> tuple[_Task, asyncio.Future[T]]:
        task = _Task(stage)
        loop = asyncio.get_running_loop()
        return task, loop.run_in_executor(self._executor, partial(self._do, task, work))

    async def _watch(self, task: _Task, future: asyncio.Future[T]) -> T:
        return await self._watchdog.watch(future, self, lambda: self._at_work is task)

    def _do(self, task: _Task, work: Callable[[], T]) -> T:
        task.last_beat = time.monotonic()
        self._at_work = task
        try:
            done = work()
            if task.given_up:  # not held until the event loop drops it
                raise JobCancelledError(f"Stage {task.stage} was given up.")
            return done
        finally:
            self._say_if_back(task)
            self._at_work = None

    def _say_if_back(self, task: _Task) -> None:
        if self._watchdog.is_stuck(self):
            log.warning("Stage %s goes on after it was stuck; the server works again", task.stage)


class _Task:
    """One piece of work; `given_up` as soon as nobody waits for it."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.last_beat = 0.0
        self.given_up = False


_NICER = 10  # steps: a tenth of the event loop's share where both want one core


def computing_thread(name: str) -> ThreadPoolExecutor:
    """One thread called `name` that stands back behind the event loop."""
    return ThreadPoolExecutor(1, thread_name_prefix=name, initializer=_stand_back)


def _stand_back() -> None:
    """Let the event loop go first where it and the computing threads want the same core.

    On Linux every thread has a niceness of its own, which the threads that it starts inherit.
    """
    if sys.platform == "linux":
        thread = threading.get_native_id()
        nice = os.getpriority(os.PRIO_PROCESS, thread) + _NICER
        os.setpriority(os.PRIO_PROCESS, thread, nice)  # the kernel stops at 19
