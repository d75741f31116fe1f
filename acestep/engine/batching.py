"""Take what is waiting: a stage that runs items of the same kind together.

Owns the grouping and the thread that the work runs in; knows nothing of songs.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Executor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class BatchingStage(Generic[Item, Result]):
    """Runs items through `work` in batches of at most `limit()` items that have the same `kind`.

    The oldest item decides the kind of the next batch, so none waits for ever. Batches run one at a time
    in `executor`; an error fails every item of its batch.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Item]], Sequence[Result]],
        kind: Callable[[Item], Hashable],
        limit: Callable[[], int],
        executor: Executor,
    ) -> None:
        self._work = work
        self._kind = kind
        self._limit = limit
        self._executor = executor
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._draining: asyncio.Task[None] | None = None

    async def run(self, item: Item) -> Result:
        """Wait for `item` to go through the stage."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._draining is None:
            self._draining = asyncio.create_task(self._drain())
        return await future

    async def _drain(self) -> None:
        try:
            while True:
                await asyncio.sleep(0)  # whoever arrives in the same turn of the loop joins the batch
                batch = self._next_batch()
                if not batch:
                    return
                await self._run_batch(batch)
        finally:
            self._draining = None

    def _next_batch(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        waiting = [entry for entry in self._waiting if not entry[1].done()]
        if not waiting:
            self._waiting.clear()
            return []
        kind = self._kind(waiting[0][0])
        batch = [entry for entry in waiting if self._kind(entry[0]) == kind][: max(1, self._limit())]
        taken = {id(future) for _, future in batch}
        self._waiting = deque(entry for entry in waiting if id(entry[1]) not in taken)
        return batch

    async def _run_batch(self, batch: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        loop = asyncio.get_running_loop()
        try:
            results = await loop.run_in_executor(self._executor, self._work, [item for item, _ in batch])
            answers = list(zip(batch, results, strict=True))
        except BaseException as error:  # handed to whoever waits for it
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            if isinstance(error, asyncio.CancelledError):
                raise
            return
        for (_, future), result in answers:
            if not future.done():
                future.set_result(result)
