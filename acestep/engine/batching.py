"""Take what is waiting: a stage that runs items of the same kind together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, TypeVar

from acestep.errors import NotEnoughMemoryError

Item = TypeVar("Item")
Result = TypeVar("Result")
Run = Callable[[Callable[[], Sequence[Result]]], Awaitable[Sequence[Result]]]
Batch = list[tuple[Item, asyncio.Future[Result]]]

# Batches that may go before the oldest item because they need what is in use already. To change over may cost
# about as much as a batch, so that four of them leave a fifth for changing over; who waits hardly notices.
PATIENCE = 4


class BatchingStage(Generic[Item, Result]):
    """Runs items through `work` in batches of at most `limit(item)` items that have the same `kind`.

    The oldest item decides the kind of the next batch, unless others need the same `tool` as the last batch:
    these go first, but never more than PATIENCE batches before the oldest item, so none waits for ever.
    Batches run one at a time by `run`. An error fails every item of its batch; but where memory runs out, it
    runs again in halves, down to single items, and `learn` hears of the items that were too many.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Item]], Sequence[Result]],
        kind: Callable[[Item], Hashable],
        limit: Callable[[Item], int],
        run: Run[Result],
        tool: Callable[[Item], Hashable] = lambda item: None,
        learn: Callable[[Sequence[Item]], None] = lambda items: None,
    ) -> None:
        self._work = work
        self._kind = kind
        self._limit = limit
        self._run = run
        self._tool = tool
        self._learn = learn
        self._in_use: Hashable = None
        self._passed = 0  # batches that went before the oldest item
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

    def _next_batch(self) -> Batch[Item, Result]:
        waiting = [entry for entry in self._waiting if not entry[1].done()]
        if not waiting:
            self._waiting.clear()
            return []
        first = self._first([item for item, _ in waiting])
        kind, limit = self._kind(first), max(1, self._limit(first))
        batch = [entry for entry in waiting if self._kind(entry[0]) == kind][:limit]
        taken = {id(future) for _, future in batch}
        self._waiting = deque(entry for entry in waiting if id(entry[1]) not in taken)
        return batch

    def _first(self, waiting: Sequence[Item]) -> Item:
        """The item that decides what the next batch is."""
        oldest = waiting[0]
        handy = next((item for item in waiting if self._tool(item) == self._in_use), oldest)
        first = handy if self._passed < PATIENCE else oldest
        self._passed = 0 if first is oldest else self._passed + 1
        self._in_use = self._tool(first)
        return first

    async def _run_batch(self, batch: Batch[Item, Result]) -> None:
        size = len(batch)
        try:
            while batch := [entry for entry in batch if not entry[1].done()]:
                part = batch[:size]
                if not await self._has_run(part):
                    size = halved(len(part))
        except asyncio.CancelledError as error:
            _fail(batch, error)
            raise

    async def _has_run(self, batch: Batch[Item, Result]) -> bool:
        """Run a batch, and hand out what came of it; False: memory does not hold so many at once."""
        items = [item for item, _ in batch]
        try:
            results = await self._run(lambda: self._work(items))
            answers = list(zip(batch, results, strict=True))
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - handed to whoever waits for it
            if isinstance(error, NotEnoughMemoryError) and len(batch) > 1:
                self._learn(items)
                return False
            _fail(batch, error)
            return True
        for (_, future), result in answers:
            if not future.done():
                future.set_result(result)
        return True


def halved(count: int) -> int:
    """How many are run at once of `count` that were too many: the larger half."""
    return -(-count // 2)


def _fail(batch: Batch[Item, Result], error: BaseException) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(error)
