"""What the engine does with asyncio's tasks in more than one place."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, TypeVar

from acestep.errors import AceStepError

T = TypeVar("T")

log = logging.getLogger(__name__)


async def all_of(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """What all of these come to; where one fails, nobody waits for the others."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


async def loaded(what: str, loading: Awaitable[T], give_up: Callable[[str], None]) -> T | None:
    """What `loading` brings; where it fails, the log says so of `what`, `give_up` hears why, and None."""
    started = time.perf_counter()
    try:
        there = await loading
    except AceStepError as error:
        log.error("%s cannot be loaded. %s", what, error)
        give_up(str(error))
    except Exception as error:  # the server lives on and says so
        log.exception("%s cannot be loaded", what)
        give_up(f"{type(error).__name__} while loading; see the server's log")
    else:
        log.info("%s is ready after %.1f s", what, time.perf_counter() - started)
        return there
    return None
