from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from acestep.engine.batching import MAX_OVERTAKES, BatchingStage, BatchLimit
from acestep.engine.renderer import Loaded
from acestep.errors import NotEnoughMemoryError
from tests.engine.fakes import INFO, FakeRenderer

Run = Callable[[Callable[[], Sequence[int]]], Awaitable[Sequence[int]]]


@pytest.fixture
def run() -> Iterator[Run]:
    with ThreadPoolExecutor(1) as executor:
        yield lambda work: asyncio.get_running_loop().run_in_executor(executor, work)


class Doubler:
    """Doubles numbers, and remembers which it got together."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        return [2 * item for item in items]


def stage(
    work: Callable[[Sequence[int]], Sequence[int]], run: Run, limit: int = 8
) -> BatchingStage[int, int]:
    """Even numbers go with even ones."""
    return BatchingStage(work, lambda item: item % 2, lambda item: limit, run)


async def test_each_item_gets_its_own_result(run):
    doubler = Doubler()
    doubling = stage(doubler, run)
    answers = await asyncio.gather(*(doubling.run(item) for item in (1, 2, 3, 4, 5)))
    assert answers == [2, 4, 6, 8, 10]
    assert doubler.batches == [[1, 3, 5], [2, 4]]


@pytest.mark.parametrize(("limit", "sizes"), [(2, [2, 2, 1]), (1, [1] * 5), (0, [1] * 5)])
async def test_a_batch_holds_at_least_one_and_at_most_the_limit(run, limit, sizes):
    doubler = Doubler()
    doubling = stage(doubler, run, limit)
    await asyncio.gather(*(doubling.run(2 * item) for item in range(5)))
    assert [len(batch) for batch in doubler.batches] == sizes


async def test_a_stage_runs_again_after_it_was_idle(run):
    doubler = Doubler()
    doubling = stage(doubler, run)
    assert await doubling.run(1) == 2
    await asyncio.sleep(0)
    assert await doubling.run(2) == 4
    assert doubler.batches == [[1], [2]]


async def test_what_arrives_during_a_batch_waits_for_the_next(run):
    begun, go_on, doubler = threading.Event(), threading.Event(), Doubler()

    def slow(items: Sequence[int]) -> list[int]:
        begun.set()
        assert go_on.wait(20)
        return doubler(items)

    doubling = stage(slow, run)
    first = asyncio.create_task(doubling.run(2))
    assert await asyncio.to_thread(begun.wait, 20)
    later = [asyncio.create_task(doubling.run(item)) for item in (4, 6)]
    await asyncio.sleep(0)
    go_on.set()
    await asyncio.gather(first, *later)
    assert doubler.batches == [[2], [4, 6]]


async def test_an_error_fails_its_batch_and_no_other(run):
    def picky(items: Sequence[int]) -> list[int]:
        if 3 in items:
            raise ArithmeticError("three")
        return list(items)

    doubling = stage(picky, run)
    answers = await asyncio.gather(*(doubling.run(n) for n in (1, 3, 2)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [ArithmeticError, ArithmeticError, int]


async def test_a_batch_too_large_for_memory_is_split(run):
    sizes: list[int] = []

    def hungry(items: Sequence[int]) -> list[int]:
        sizes.append(len(items))
        if len(items) > 2:
            raise NotEnoughMemoryError("doubling", "too many")
        return [2 * item for item in items]

    doubling = stage(hungry, run)
    assert await asyncio.gather(*(doubling.run(2 * item) for item in range(5))) == [0, 4, 8, 12, 16]
    assert sizes == [5, 3, 2, 2, 1], "what two threes need is not tried twice"


async def test_the_items_that_were_too_many_are_reported(run):
    learned: list[Sequence[int]] = []

    def hungry(items: Sequence[int]) -> list[int]:
        if len(items) > 1:
            raise NotEnoughMemoryError("doubling", "too many")
        return list(items)

    doubling = BatchingStage(
        hungry, lambda item: item % 2, lambda item: 1 if learned else 8, run, on_too_many=learned.append
    )
    await asyncio.gather(*(doubling.run(n) for n in (2, 4, 6)))
    assert learned == [[2, 4, 6], [2, 4]]
    await asyncio.gather(*(doubling.run(n) for n in (2, 4, 6)))
    assert len(learned) == 2, "the limit is asked again for every batch"


async def test_only_an_item_too_large_by_itself_fails(run):
    def hungry(items: Sequence[int]) -> list[int]:
        if 4 in items:
            raise NotEnoughMemoryError("doubling", "four is too much")
        return [2 * item for item in items]

    doubling = stage(hungry, run)
    answers = await asyncio.gather(*(doubling.run(n) for n in (2, 4, 6, 8)), return_exceptions=True)
    assert [answers[0], answers[2], answers[3]] == [4, 12, 16]
    assert isinstance(answers[1], NotEnoughMemoryError)
    assert await doubling.run(10) == 20


async def test_too_few_results_fail_the_batch(run):
    forgetful = stage(lambda items: items[:-1], run)
    async with asyncio.timeout(20):
        answers = await asyncio.gather(*(forgetful.run(n) for n in (1, 3)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [ValueError, ValueError]


async def test_items_that_cannot_be_grouped_fail_and_later_ones_run(run):
    def kind(item: int) -> int:
        if item == 3:
            raise ArithmeticError("three")
        return item % 2

    picky = BatchingStage(lambda items: items, kind, lambda item: 8, run)
    async with asyncio.timeout(20):
        answers = await asyncio.gather(*(picky.run(n) for n in (1, 3)), return_exceptions=True)
        assert [type(answer) for answer in answers] == [ArithmeticError, ArithmeticError]
        assert await picky.run(5) == 5


async def test_a_cancelled_item_is_not_run(run):
    doubler = Doubler()
    doubling = stage(doubler, run)
    stays, leaves = (asyncio.create_task(doubling.run(item)) for item in (1, 3))
    asyncio.get_running_loop().call_soon(leaves.cancel)
    assert await stays == 2
    assert leaves.cancelled()
    assert doubler.batches == [[1]]


class TestAffinity:
    """The affinity of an item is its tens digit."""

    async def run(self, items: Sequence[int], run: Run) -> list[int]:
        order: list[int] = []

        def work(batch: Sequence[int]) -> Sequence[int]:
            order.extend(batch)
            return batch

        one_by_one = BatchingStage(work, lambda item: item, lambda item: 1, run, lambda item: item // 10)
        await asyncio.gather(*(one_by_one.run(item) for item in items))
        return order

    async def test_items_with_the_last_affinity_go_first(self, run):
        assert await self.run([1, 11, 2, 12, 3], run) == [1, 2, 3, 11, 12]

    async def test_the_oldest_item_is_overtaken_by_few_batches(self, run):
        order = await self.run([1, 11, *range(2, 10), 12], run)
        assert order[: MAX_OVERTAKES + 2] == [*range(1, MAX_OVERTAKES + 2), 11]
        assert order[MAX_OVERTAKES + 2] == 12


class TestBatchLimit:
    def model(self) -> Loaded:
        return Loaded(replace(INFO, max_batch=8), FakeRenderer())

    def test_batches_are_half_of_what_was_too_many(self, caplog: pytest.LogCaptureFixture) -> None:
        batch_limit, model = BatchLimit(), self.model()
        assert batch_limit.most(model, 240.0) == 8
        batch_limit.learn(model, 240.0, 7)
        assert batch_limit.most(model, 240.0) == 4
        assert [record.getMessage() for record in caplog.records] == [
            "7 songs of 240 s at once are too many for hum here: no more than 4 (960 s in all) from now on"
        ]

    def test_shorter_songs_may_be_more_and_one_goes_always(self) -> None:
        batch_limit, model = BatchLimit(), self.model()
        batch_limit.learn(model, 60.1, 6)
        counts = {seconds: batch_limit.most(model, seconds) for seconds in (10.0, 30.0, 60.1, 90.0, 600.0)}
        assert counts == {10.0: 8, 30.0: 6, 60.1: 3, 90.0: 2, 600.0: 1}

    def test_a_model_that_takes_no_batches_has_one_song_at_a_time(self) -> None:
        renderer = FakeRenderer()
        renderer.takes_batches = False
        assert BatchLimit().most(Loaded(replace(INFO, max_batch=8), renderer), 10.0) == 1

    def test_a_model_that_is_loaded_again_has_no_limit(self) -> None:
        batch_limit, model = BatchLimit(), self.model()
        batch_limit.learn(model, 60.0, 4)
        assert batch_limit.most(self.model(), 60.0) == 8

    def test_a_limit_keeps_no_model_in_memory(self) -> None:
        batch_limit, model = BatchLimit(), self.model()
        batch_limit.learn(model, 60.0, 4)
        there = weakref.ref(model)
        del model
        assert there() is None
