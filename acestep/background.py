"""Tasks that run for as long as the server does."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from functools import partial
from typing import Any

from acestep.errors import DataFolderError

log = logging.getLogger(__name__)

FIRST_DELAY = 1.0  # seconds until the first retry; each further one waits twice as long
LONGEST_DELAY = 60.0

Delays = Callable[[], Iterator[float]]


def delays() -> Iterator[float]:
    delay = FIRST_DELAY
    while True:
        yield delay
        delay = min(2 * delay, LONGEST_DELAY)


class BackgroundTasks:
    """Tasks that no request awaits. One that breaks is logged, and `trouble` names it."""

    def __init__(self, delays: Delays = delays) -> None:
        self._delays = delays
        self._broken: dict[object, str] = {}

    def trouble(self) -> str:
        return " ".join(self._broken.values())

    def keep(self, name: str, work: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        """Run `work`, and again after a delay where it raises."""
        return asyncio.create_task(self._keep(name, work), name=name)

    def run(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` once. Where it raises, it counts as broken until the same name runs again."""
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(partial(self._ended, name))
        return task

    async def _keep(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        key, waits = object(), self._delays()  # several devices have tasks of the same name
        while True:
            started = time.monotonic()
            try:
                return await work()
            except Exception as error:  # whatever it is, the work goes on
                if time.monotonic() - started > LONGEST_DELAY:
                    waits = self._delays()
                what, delay = f"Background task '{name}'", next(waits)
                self._broken[key] = f"{what} broke: {_reason(error)} It starts again within {delay:g} s."
                log.critical("%s broke; it starts again in %g s", what, delay, exc_info=error)
            try:
                await asyncio.sleep(delay)
            finally:
                del self._broken[key]

    def _ended(self, name: str, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is None:
            self._broken.pop(name, None)
        else:
            what = f"Background task '{name}'"
            self._broken[name] = f"{what} broke: {_reason(error)} Restart the server."
            log.critical("%s broke; restart the server", what, exc_info=error)


def _reason(error: BaseException) -> str:
    if isinstance(error, DataFolderError):
        return error.public
    # The text may name folders, which clients need not know.
    return f"{type(error).__name__}; the server's log says more."
