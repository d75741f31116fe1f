"""Stopping: at the signal instead of after the last request, and without waiting for a busy thread."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType
from typing import NoReturn

import psutil

log = logging.getLogger(__name__)

STUCK = 1  # exit code where a thread is stuck at the end
NOT_STARTED = 2  # exit code where no signal has asked for the end: the port could not be opened
LINGER_SECONDS = 1.0  # that connections get to take their last bytes
_THREADS_SECONDS = 0.3  # that idle threads need to end
_OF_LOOPS = ("asyncio_", "AnyIO worker")
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopping:
    """Closes the server once: when a signal asks for it, or else with the lifespan of the application.

    uvicorn closes the application after the last connection; a client that reads nothing would hold it.
    """

    def __init__(
        self, close: Callable[[], Awaitable[str]], drain: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """`close` returns why a thread is stuck, or nothing. `drain` goes before it at SIGTERM."""
        self._close = close
        self._drain = drain
        self._draining: asyncio.Task[None] | None = None
        self._before = set(threading.enumerate())
        self._closing: asyncio.Task[str] | None = None
        self._leaving: asyncio.Task[None] | None = None
        self._signal = 0

    @contextmanager
    def at_signals(self) -> Iterator[None]:
        """Close at SIGTERM and SIGINT, which go on to the handlers that were set before.

        The first SIGTERM waits until the server is drained; a second, or SIGINT, ends that.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop, before = asyncio.get_running_loop(), {number: signal.getsignal(number) for number in _SIGNALS}

        def close(number: int, frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(self._asked, number)
            further = before[signal.Signals(number)]
            if callable(further):
                further(number, frame)

        def handle(number: int, frame: FrameType | None) -> None:
            if number == signal.SIGTERM and self._drain is not None:
                drain, self._drain = self._drain, None
                loop.call_soon_threadsafe(self._begin_draining, drain, partial(close, number, frame))
            else:
                loop.call_soon_threadsafe(self._end_draining)
                close(number, frame)

        for number, handler in before.items():
            if callable(handler):
                signal.signal(number, handle)
        try:
            yield
        finally:
            for number, handler in before.items():
                if signal.getsignal(number) is handle:
                    signal.signal(number, handler)

    async def finish(self) -> None:
        """Close if that has not begun, and return when it is done. Ends the process if a thread is busy."""
        trouble = await self._begin()
        if self._leaving is not None:
            self._leaving.cancel()
        if trouble:
            log.critical("Ending without the thread that is stuck. %s", trouble)
            end_process(STUCK)
        if busy := await asyncio.to_thread(self._busy_threads):
            # Python would wait for it: to import torch, or to compute a step, takes up to minutes.
            log.info("Ending without waiting for %s", ", ".join(busy))
            self._end_as_asked()

    def _begin_draining(self, drain: Callable[[], Awaitable[None]], close: Callable[[], None]) -> None:
        async def drained() -> None:
            await drain()
            close()

        self._draining = asyncio.create_task(drained())

    def _end_draining(self) -> None:
        self._drain = None
        if self._draining is not None:
            self._draining.cancel()

    def _asked(self, number: int) -> None:
        if not self._signal:
            self._signal = number
            self._leaving = asyncio.create_task(self._leave())

    async def _leave(self) -> None:
        await asyncio.shield(self._begin())
        await asyncio.sleep(LINGER_SECONDS)
        log.info("Ending without clients that do not take their answers")
        self._end_as_asked()

    def _begin(self) -> asyncio.Task[str]:
        if self._closing is None:
            self._closing = asyncio.create_task(_text_of(self._close()))
        return self._closing

    def _busy_threads(self) -> list[str]:
        until = time.monotonic() + _THREADS_SECONDS
        while busy := [thread.name for thread in self._new_threads()]:
            if time.monotonic() > until:
                return busy
            time.sleep(0.01)
        return []

    def _new_threads(self) -> list[threading.Thread]:
        # Without those of asyncio and anyio, which stay when they are idle, and end with the event loop.
        new = set(threading.enumerate()) - self._before
        return [thread for thread in new if not thread.daemon and not thread.name.startswith(_OF_LOOPS)]

    def _end_as_asked(self) -> None:
        end_process(0 if self._signal else NOT_STARTED)


async def _text_of(work: Awaitable[str]) -> str:
    return await work


def end_process(code: int) -> NoReturn:
    """End without taking the interpreter apart, which takes seconds where torch is in memory."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def end_well_at_sigterm() -> None:
    """Exit with 0 where uvicorn, which has stopped, raises the signal again."""
    signal.signal(signal.SIGTERM, lambda number, frame: end_process(0))


def end_supervisor() -> None:
    """End the process that started this one as a worker, and its other workers; it exits with an error."""
    parent = multiprocessing.parent_process()
    if parent is None or parent.pid is None or not parent.is_alive():
        return
    with suppress(psutil.Error):
        others = [each for each in psutil.Process(parent.pid).children() if each.pid != os.getpid()]
        # Asked to stop, uvicorn's exits as if all were well; and it starts again what ends before it.
        psutil.Process(parent.pid).kill()
        for other in others:
            other.terminate()
