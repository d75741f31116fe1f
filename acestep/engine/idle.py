"""When models are loaded and unloaded: what the settings decide, and unloading of idle models."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

from acestep.background import BackgroundTasks
from acestep.domain.models import ModelInfo, PlannerInfo
from acestep.engine.threads import Free, Watchdog, collect


@dataclass(frozen=True, slots=True)
class IdlePolicy:
    """One for the whole engine.

    Models idle for `idle_seconds` (0: never) are unloaded until a request needs them. `is_lazy`: they are not
    loaded at the start either. `free` returns unused memory to the device.
    """

    watchdog: Watchdog = field(default_factory=Watchdog)
    tasks: BackgroundTasks = field(default_factory=BackgroundTasks)
    free: Free = collect
    idle_seconds: float = 0.0
    is_lazy: bool = False

    @property
    def loads_on_demand(self) -> bool:
        return self.is_lazy or self.idle_seconds > 0.0


LEFT = "It was unloaded while it was idle, and is loaded again when a request needs it."

Info = TypeVar("Info", ModelInfo, PlannerInfo)


def as_on_demand(info: Info) -> Info:
    """The info of a model or planner that is loaded at the first request."""
    how = "downloaded and loaded" if info.state == "downloading" else "loaded"
    detail = f"It is {how} when a request needs it."
    return replace(info, state="on_disk", detail=detail, loads_on_demand=True)


class Idle(Protocol):
    """`idle_since`: when it was last used (monotonic); None: in use, or not in memory."""

    @property
    def idle_since(self) -> float | None: ...


Held = TypeVar("Held", bound=Idle)


async def leave_when_idle(
    seconds: float, held: Callable[[], Iterable[Held]], leave: Callable[[Held], Awaitable[None]]
) -> None:
    """Call `leave` with each of `held()` once it has been idle for `seconds` (0: never); until cancelled."""
    while seconds > 0:
        now = time.monotonic()
        due = {id(each): each.idle_since + seconds for each in held() if each.idle_since is not None}
        # What becomes idle meanwhile is not due earlier.
        await asyncio.sleep(max(0.0, min(due.values(), default=now + seconds) - now))
        for each in tuple(held()):
            if each.idle_since is not None and each.idle_since + seconds <= time.monotonic():
                await leave(each)
