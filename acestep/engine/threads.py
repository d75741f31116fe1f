"""How the engine runs blocking work: watched for progress, and once more with less where memory runs out.

Python cannot kill a thread. Work that makes no progress is given up: its result is dropped, and its thread
runs nothing else until it returns. The thread is not replaced, as two threads must not use one model.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Protocol, TypeVar

from acestep.device.oom import is_out_of_memory
from acestep.errors import AceStepError, JobCancelledError, NotEnoughMemoryError, StageStuckError

T = TypeVar("T")
Free = Callable[[], None]

log = logging.getLogger(__name__)

_POLL_STUCK_SECONDS = 1.0  # between two looks at a thread that is stuck
_POLL_ENDING_SECONDS = 0.05  # and at one that is about to end
_NO_DESCRIPTORS = os.strerror(errno.EMFILE)  # as libraries quote it
_NICENESS = 10  # steps: a tenth of the event loop's share where both want one core
_WORTH_HALVING = 20.0  # seconds: half of it is the shortest song


class Watched(Protocol):
    """A thread whose progress is watched. Callable from any thread."""

    @property
    def stage(self) -> str:
        """The stage at work, or the last one."""
        ...

    def silence(self) -> float:
        """Seconds since the work at hand made progress; 0 without work."""
        ...


class Watchdog:
    """Watches threads. One that makes no progress for `limit` seconds is stuck (0: none ever is)."""

    def __init__(self, limit: float = 0.0) -> None:
        self._limit = limit
        self._poll = min(_POLL_STUCK_SECONDS, limit)
        self._threads: list[Watched] = []

    def add(self, thread: Watched) -> None:
        self._threads.append(thread)

    def forget(self, thread: Watched) -> None:
        """Stop watching `thread`, unless it is stuck."""
        if thread in self._threads and not self.is_stuck(thread):
            self._threads.remove(thread)

    def is_stuck(self, thread: Watched) -> bool:
        return 0.0 < self._limit <= thread.silence()

    def trouble(self) -> str:
        """The stages that are stuck, and what the operator should do; "" where none is."""
        return " ".join(
            f"Stage {thread.stage} has made no progress for {thread.silence():.0f} s: its thread is stuck, "
            "and jobs wait. Restart the server: waiting jobs are kept. If the stage is only slow, raise "
            "ACESTEP_STAGE_TIMEOUT."
            for thread in self._threads
            if self.is_stuck(thread)
        )

    def check(self) -> None:
        for thread in self._threads:
            if self.is_stuck(thread):
                raise StageStuckError(thread.stage, self._limit)

    async def wait_healthy(self) -> None:
        while self.trouble():  # noqa: ASYNC110 - time passes, without an event
            await asyncio.sleep(self._poll)

    async def watch(
        self, work: asyncio.Future[T], thread: Watched, has_begun: Callable[[], bool] = lambda: True
    ) -> T:
        """The result of `work`. Raises StageStuckError where `thread` is stuck at it, once it `has_begun`."""
        try:
            while self._limit and not work.done():
                await asyncio.wait({work}, timeout=self._poll)
                if not work.done() and has_begun() and self.is_stuck(thread):
                    work.add_done_callback(_drop)
                    log.critical("%s", self.trouble())
                    raise StageStuckError(thread.stage, self._limit)
            return await work
        except asyncio.CancelledError:
            work.cancel()
            raise

    async def until(
        self, event: asyncio.Event, thread: Watched, has_begun: Callable[[], bool] = lambda: True
    ) -> None:
        """Wait for an event that `thread` brings about. Raises as `watch` does."""
        if event.is_set():
            return
        waiting = asyncio.ensure_future(event.wait())
        try:
            await self.watch(waiting, thread, has_begun)
        finally:
            waiting.cancel()

    async def until_quiet(self, thread: Watched) -> None:
        """Return once `thread` has no work at hand. Raises StageStuckError if it is stuck."""
        while thread.silence():
            if self.is_stuck(thread):
                raise StageStuckError(thread.stage, self._limit)
            await asyncio.sleep(_POLL_ENDING_SECONDS)


def _drop(work: asyncio.Future[T]) -> None:
    if not work.cancelled():
        work.exception()


class WatchedThread:
    """The one thread of `executor`. Lives on one event loop; `beat` is called from the thread."""

    def __init__(self, executor: Executor, watchdog: Watchdog) -> None:
        self._executor = executor
        self._watchdog = watchdog
        self._current: _Work | None = None
        watchdog.add(self)

    @property
    def stage(self) -> str:
        work = self._current
        return work.stage if work else ""

    def silence(self) -> float:
        work = self._current
        return time.monotonic() - work.last_beat if work else 0.0

    async def run(self, stage: str, call: Callable[[], T]) -> T:
        """The result of `call`, as work of `stage`. Raises StageStuckError if it makes no progress."""
        work, future = self._submit(stage, call)
        try:
            return await self._watch(work, future)
        except StageStuckError:
            work.given_up = True
            raise

    async def see_through(self, stage: str, call: Callable[[], T]) -> T:
        """As `run`, but stuck work goes on, and its late result is used. Only cancelling gives it up."""
        work, future = self._submit(stage, call)
        try:
            with suppress(StageStuckError):
                return await self._watch(work, future)
            return await future
        except asyncio.CancelledError:
            work.given_up = True
            raise

    def close(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)
        self._watchdog.forget(self)

    def beat(self) -> None:
        """The work at hand made progress. Raises JobCancelledError where it has been given up."""
        work = self._current
        if work is not None:
            if work.given_up:
                raise JobCancelledError(f"Stage {work.stage} was given up.")
            self._log_recovery(work)
            work.last_beat = time.monotonic()

    def _submit(self, stage: str, call: Callable[[], T]) -> tuple[_Work, asyncio.Future[T]]:
        work = _Work(stage)
        loop = asyncio.get_running_loop()
        return work, loop.run_in_executor(self._executor, partial(self._do, work, call))

    async def _watch(self, work: _Work, future: asyncio.Future[T]) -> T:
        return await self._watchdog.watch(future, self, lambda: self._current is work)

    def _do(self, work: _Work, call: Callable[[], T]) -> T:
        work.last_beat = time.monotonic()
        self._current = work
        try:
            result = call()
            if work.given_up:  # the result is not held until the event loop drops it
                raise JobCancelledError(f"Stage {work.stage} was given up.")
            return result
        finally:
            self._log_recovery(work)
            self._current = None

    def _log_recovery(self, work: _Work) -> None:
        if self._watchdog.is_stuck(self):
            log.warning("Stage %s makes progress again; the server works", work.stage)


class WatchedThreads:
    """Several threads for work that shares nothing. Lives on one event loop, as they do."""

    def __init__(self, threads: Sequence[WatchedThread]) -> None:
        self._busy = dict.fromkeys(threads, 0)  # with the works that each has
        self._local = threading.local()

    async def run(self, stage: str, call: Callable[[], T]) -> T:
        """As `WatchedThread.run`, on the thread that is the least busy."""
        thread = min(self._busy, key=lambda each: self._busy[each])
        self._busy[thread] += 1
        try:
            return await thread.run(stage, partial(self._do, thread, call))
        finally:
            self._busy[thread] -= 1

    def _do(self, thread: WatchedThread, call: Callable[[], T]) -> T:
        self._local.thread = thread
        return call()

    def beat(self) -> None:
        """Called from a thread: its work made progress. Raises as `WatchedThread.beat` does."""
        self._local.thread.beat()

    def close(self) -> None:
        for thread in self._busy:
            thread.close()


class _Work:
    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.last_beat = 0.0
        self.given_up = False


def computing_thread(name: str) -> ThreadPoolExecutor:
    """One thread of lower priority than the event loop's."""
    return ThreadPoolExecutor(1, thread_name_prefix=name, initializer=_lower_priority)


def _lower_priority() -> None:
    # On Linux each thread has a niceness of its own, which the threads that it starts inherit.
    if sys.platform == "linux":
        thread = threading.get_native_id()
        niceness = os.getpriority(os.PRIO_PROCESS, thread) + _NICENESS
        os.setpriority(os.PRIO_PROCESS, thread, niceness)  # the kernel stops at 19


def collect() -> None:
    gc.collect()


@dataclass(frozen=True, slots=True)
class WorkItem:
    """What a stage works on, for the error where memory runs out. `remedy` is for items without `seconds`."""

    stage: str
    model: str
    seconds: float | None
    what: str = "a song"
    remedy: str = "a shorter one needs less"


class OomRetry:
    """Runs work that may run out of memory. Thread-safe.

    `free` gives unused memory back to the device. It runs on the thread of the work: only there no frame
    holds the tensors of the failed attempt any more.
    """

    def __init__(self, free: Free = collect) -> None:
        self._free = free
        self._longest: dict[tuple[str, str], float] = {}  # seconds that fitted, by stage and model

    def run(self, item: WorkItem, work: Callable[[], T]) -> T:
        """The result of `work`. Raises NotEnoughMemoryError, with the memory freed, where it runs out."""
        try:
            result = work()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            log.warning("Out of memory at stage %s: %s", item.stage, str(error).partition("\n")[0])
        else:
            key = item.stage, item.model
            self._longest[key] = max(self._longest.get(key, 0.0), item.seconds or 0.0)
            return result
        # After the except block the error is gone, and with it the frames that hold tensors.
        self._free()
        raise NotEnoughMemoryError(item.stage, self._sentence(item))

    def retry_with_less(
        self, item: WorkItem, work: Callable[[], T], smaller: Callable[[], T] | None = None
    ) -> T:
        """As `run`; where memory runs out, the result of `smaller`, or of `work` again if it is None."""
        try:
            return self.run(item, work)
        except NotEnoughMemoryError:
            log.info("Retrying stage %s with less memory", item.stage)
        return self.run(item, smaller or work)

    def _sentence(self, item: WorkItem) -> str:
        if item.seconds is None:
            return f"{item.what} is too large for this server; {item.remedy}"
        told = f"{item.what} of {item.seconds:g} s is too large for this server"
        fitted = self._longest.get((item.stage, item.model), 0.0)
        if 0.0 < fitted < item.seconds:
            return f"{told}; up to {fitted:g} s have gone through: ask for a shorter one"
        if item.seconds >= _WORTH_HALVING:
            return f"{told}; half as long ({item.seconds / 2:g} s) needs about half: ask for a shorter one"
        return f"{told} at the moment; ask for fewer songs at once (batch_size), or later"


def try_load(what: str, load: Callable[[], T], free: Free) -> T:
    """The result of `load`. Raises NotEnoughMemoryError, with the memory freed, where it does not fit."""
    remedy = "choose a smaller one, have fewer models in memory, or let them leave it when idle"
    return OomRetry(free).run(WorkItem("load", what, None, what, remedy), load)


# Seconds until a load is tried again that failed for want of file descriptors or memory. Idle connections
# give descriptors back within ACESTEP_KEEP_ALIVE.
DESCRIPTOR_DELAYS, MEMORY_DELAYS = (1.0, 3.0, 6.0, 20.0, 60.0), (1.0, 10.0)

Sleep = Callable[[float], Awaitable[None]]


async def load_or_give_up(
    what: str, load: Callable[[], Awaitable[T]], give_up: Callable[[str], None], sleep: Sleep = asyncio.sleep
) -> T | None:
    """The result of `load`, or None: then the error is in the log, and `give_up` is called with it."""
    started = time.perf_counter()
    try:
        result = await _load_patiently(what, load, sleep)
    except AceStepError as error:
        log.error("%s cannot be loaded. %s", what, error)
        give_up(str(error))
    except Exception as error:  # the server lives on and says so
        log.exception("%s cannot be loaded", what)
        give_up(f"{type(error).__name__} while loading; see the server's log")
    else:
        log.info("%s is ready after %.1f s", what, time.perf_counter() - started)
        return result
    return None


async def _load_patiently(what: str, load: Callable[[], Awaitable[T]], sleep: Sleep) -> T:
    for tried in count():
        try:
            return await load()
        except Exception as error:
            delays = _delays_after(error)
            if tried >= len(delays):
                raise
            log.warning("%s cannot be loaded yet: %s Trying again in %g s.", what, error, delays[tried])
        await sleep(delays[tried])
    raise AssertionError


def _delays_after(error: BaseException) -> tuple[float, ...]:
    if isinstance(error, NotEnoughMemoryError):
        return MEMORY_DELAYS
    cause: BaseException | None = error
    while cause is not None:  # libraries wrap it
        if getattr(cause, "errno", None) in (errno.EMFILE, errno.ENFILE) or _NO_DESCRIPTORS in str(cause):
            return DESCRIPTOR_DELAYS
        cause = cause.__cause__ or cause.__context__
    return ()


async def all_of(works: Iterable[Coroutine[None, None, T]]) -> list[T]:
    """The results of all; the first error cancels the others, and is raised alone, unlike a TaskGroup's."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
