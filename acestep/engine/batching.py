"""Batches of items that wait at the same time, as large as memory allows."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

from acestep.engine.renderer import Loaded
from acestep.errors import NotEnoughMemoryError

Item = TypeVar("Item")
Result = TypeVar("Result")
Run = Callable[[Callable[[], Sequence[Result]]], Awaitable[Sequence[Result]]]
Entry = tuple[Item, asyncio.Future[Result]]

log = logging.getLogger(__name__)

# Batches that may go before the oldest item because they use the model of the last batch. A change of models
# may cost about as much as a batch: after four batches it takes a fifth of the time, and the oldest item
# waits little.
MAX_OVERTAKES = 4

_ROUNDING = 1e-6  # songs: three times a length may be a little less than three of it


class BatchingStage(Generic[Item, Result]):
    """Runs items through `work` in batches of at most `limit(item)` items with the same `group_key`.

    The oldest item decides the group of the next batch. Items with the `affinity` of the last batch overtake
    it, but never for more than MAX_OVERTAKES batches. Batches run one at a time by `run`. An error fails
    every item of its batch; where memory runs out, the batch runs again in halves, down to single items, and
    `on_too_many` gets the items that were too many.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Item]], Sequence[Result]],
        group_key: Callable[[Item], Hashable],
        limit: Callable[[Item], int],
        run: Run[Result],
        affinity: Callable[[Item], Hashable] = lambda item: None,
        on_too_many: Callable[[Sequence[Item]], None] = lambda items: None,
    ) -> None:
        self._work = work
        self._group_key = group_key
        self._limit = limit
        self._run = run
        self._affinity = affinity
        self._on_too_many = on_too_many
        self._last_affinity: Hashable = None
        self._overtakes = 0
        self._waiting: deque[Entry[Item, Result]] = deque()
        self._draining: asyncio.Task[None] | None = None

    async def run(self, item: Item) -> Result:
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._draining is None:
            self._draining = asyncio.create_task(self._drain())
        return await future

    async def _drain(self) -> None:
        try:
            while True:
                await asyncio.sleep(0)  # items of the same turn of the event loop share a batch
                batch = self._next_batch()
                if not batch:
                    return
                await self._run_batch(batch)
        except BaseException as error:  # of the grouping: items that wait must not wait for ever
            _fail(list(self._waiting), error)
            raise
        finally:
            self._draining = None

    def _next_batch(self) -> list[Entry[Item, Result]]:
        waiting = [entry for entry in self._waiting if not entry[1].done()]
        if not waiting:
            self._waiting.clear()
            return []
        first = self._first([item for item, _ in waiting])
        key, limit = self._group_key(first), max(1, self._limit(first))
        batch = [entry for entry in waiting if self._group_key(entry[0]) == key][:limit]
        taken = {id(future) for _, future in batch}
        self._waiting = deque(entry for entry in waiting if id(entry[1]) not in taken)
        return batch

    def _first(self, waiting: Sequence[Item]) -> Item:
        oldest = waiting[0]
        alike = next((item for item in waiting if self._affinity(item) == self._last_affinity), oldest)
        first = alike if self._overtakes < MAX_OVERTAKES else oldest
        self._overtakes = 0 if first is oldest else self._overtakes + 1
        self._last_affinity = self._affinity(first)
        return first

    async def _run_batch(self, batch: list[Entry[Item, Result]]) -> None:
        size = len(batch)
        try:
            while batch := [entry for entry in batch if not entry[1].done()]:
                part = batch[:size]
                if not await self._fits(part):
                    size = _half(len(part))
        except BaseException as error:
            _fail(batch, error)
            raise

    async def _fits(self, batch: list[Entry[Item, Result]]) -> bool:
        # Run a batch and set its results or its error; False, with nothing set, where memory runs out.
        items = [item for item, _ in batch]
        try:
            results = await self._run(lambda: self._work(items))
            answers = list(zip(batch, results, strict=True))
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - the callers of `run` get it
            if isinstance(error, NotEnoughMemoryError) and len(batch) > 1:
                self._on_too_many(items)
                return False
            _fail(batch, error)
            return True
        for (_, future), result in answers:
            if not future.done():
                future.set_result(result)
        return True


class BatchLimit:
    """How many seconds of music fit into a batch of a model, learned from batches that ran out of memory.

    Memory grows with the number of songs times their length. A limit is forgotten with its
    model: after the model is loaded again, there may be more room.
    """

    def __init__(self) -> None:
        self._seconds: WeakKeyDictionary[Loaded, float] = WeakKeyDictionary()

    def most(self, model: Loaded, seconds: float) -> int:
        """How many songs of this length a batch may hold: at least one."""
        most = model.info.max_batch if model.renderer.takes_batches else 1
        limit = self._seconds.get(model)
        return most if limit is None else max(1, min(most, int(limit / seconds + _ROUNDING)))

    def learn(self, model: Loaded, seconds: float, too_many: int) -> None:
        """Allow half as many songs from now on, as `too_many` of this length ran out of memory."""
        most = _half(too_many)
        self._seconds[model] = most * seconds
        log.warning(
            "%d songs of %g s at once are too many for %s here: no more than %d (%g s in all) from now on",
            *(too_many, seconds, model.info.name, most, most * seconds),
        )


def _half(count: int) -> int:
    return -(-count // 2)


def _fail(batch: Sequence[Entry[Item, Result]], error: BaseException) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(error)
