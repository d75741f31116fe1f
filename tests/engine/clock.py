"""Time that passes as a test says, for what measures how long a thread is silent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from acestep.errors import StageStuckError
from tests.engine.fakes import until

LIMIT = 60.0  # seconds without progress until a stage is stuck; so long no machine holds up what is not


class Clock:
    """Stands for the module `time`."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self._ahead

    def forward(self, seconds: float) -> None:
        self._ahead += seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    async def until_stuck(self, work: Awaitable[object], has_begun: Callable[[], bool], told: str) -> None:
        """See that `work` fails where it makes no progress after it has begun; `told` is in the error."""
        task = asyncio.ensure_future(work)
        await until(has_begun)
        self.forward(LIMIT)
        with pytest.raises(StageStuckError, match=told):
            await task


async def while_nothing_happens(task: asyncio.Future[Any]) -> None:
    """Give what may go wrong the time of several looks at the threads; then `task` still waits."""
    await asyncio.sleep(0.05)
    assert not task.done()
