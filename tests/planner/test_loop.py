from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Sequence

import pytest
import pytest_asyncio

from acestep.errors import JobCancelledError, NotEnoughMemoryError, PlannerError
from acestep.planner.grammar import codes_grammar
from acestep.planner.language_model import Generation, StepOutput, TokenSampling
from acestep.planner.loop import GenerationLoop
from tests.planner.fakes import WalkingModel, write_now

PATIENCE = 20.0  # seconds that a busy machine gets before a test gives up
STEPS = 8


class GatedModel(WalkingModel):
    """Takes the steps that the test allows, and raises what the test sets."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = threading.Semaphore(0)
        self.entered = 0  # steps that were begun, let or not
        self.threads: set[str] = set()
        self.broken: Exception | None = None
        self.unwelcome: int | None = None
        self.dead: int | None = None

    def let(self, steps: int) -> None:
        self.steps.release(steps)

    def add(self, generation: Generation) -> int:
        if generation.seed == self.unwelcome:
            raise PlannerError("too long")
        return super().add(generation)

    def step(self) -> Sequence[StepOutput]:
        self.entered += 1
        assert self.steps.acquire(timeout=PATIENCE)
        self.threads.add(threading.current_thread().name)
        if self.broken is not None:
            broken, self.broken = self.broken, None
            raise broken
        outputs = super().step()
        return [
            StepOutput(output.sequence_id, output.tokens, error="out of luck")
            if self.generations[output.sequence_id].seed == self.dead
            else output
            for output in outputs
        ]


class ScarcityError(MemoryError):
    """Weakly referenced by a test."""


class OddError(Exception):
    """Weakly referenced, too."""


class Failing:
    """A step that raises."""

    def __call__(self) -> None:
        raise OddError


def codes(seed: int, count: int = STEPS - 1) -> Generation:
    """A text that takes `count` steps and one more to end."""
    form = codes_grammar(count, WalkingModel().vocabulary)
    return Generation((), form.grammar, TokenSampling(), seed, form.max_tokens)


@pytest.fixture
def model() -> GatedModel:
    return GatedModel()


@pytest_asyncio.fixture
async def loop(model: GatedModel) -> AsyncIterator[GenerationLoop]:
    made = GenerationLoop(model)
    yield made
    model.let(10_000)
    await asyncio.to_thread(made.close)


def start(
    loop: GenerationLoop,
    generation: Generation,
    on_tokens: Callable[[int], None] = lambda tokens: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> asyncio.Task[str]:
    return asyncio.create_task(loop.generate(generation, on_tokens, cancelled))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - the condition turns in another thread
            await asyncio.sleep(0.001)


async def test_new_texts_join_at_the_next_step(model: GatedModel, loop: GenerationLoop) -> None:
    first = start(loop, codes(1))
    model.let(3)
    await until(lambda: model.entered == 4)
    others = [start(loop, codes(2)), start(loop, codes(3))]
    await asyncio.sleep(0)  # they are on their way, and the loop waits within its fourth step
    model.let(1)
    model.let(100)
    texts = await asyncio.gather(first, *others)
    assert texts == [write_now(WalkingModel(), codes(seed)) for seed in (1, 2, 3)]
    assert model.together == [1] * 4 + [3] * 4 + [2] * 4
    assert model.threads == {"planner"}


async def test_tokens_are_reported_at_every_step(model: GatedModel, loop: GenerationLoop) -> None:
    told: list[int] = []
    model.let(100)
    await start(loop, codes(1), told.append)
    assert told == list(range(1, STEPS + 1))


async def test_without_texts_there_are_no_steps(model: GatedModel, loop: GenerationLoop) -> None:
    model.let(100)
    await start(loop, codes(1))
    await asyncio.sleep(0.02)
    assert len(model.together) == STEPS


async def test_a_cancelled_job_ends_within_a_step(model: GatedModel, loop: GenerationLoop) -> None:
    cancelled = threading.Event()
    doomed, other = start(loop, codes(1), cancelled=cancelled.is_set), start(loop, codes(2))
    model.let(2)
    await until(lambda: model.entered == 3)
    cancelled.set()
    model.let(1)  # the step that the loop waits within
    with pytest.raises(JobCancelledError):
        await doomed
    assert len(model.together) == 3
    model.let(100)
    assert await other == write_now(WalkingModel(), codes(2))
    assert model.aborted == [0]


async def test_a_cancelled_task_aborts_its_text(model: GatedModel, loop: GenerationLoop) -> None:
    doomed, other = start(loop, codes(1)), start(loop, codes(2))
    model.let(1)
    await until(lambda: len(model.together) == 1)
    doomed.cancel()
    with pytest.raises(asyncio.CancelledError):
        await doomed
    model.let(100)
    assert await other == write_now(WalkingModel(), codes(2))
    assert model.aborted == [0]


async def test_a_refused_text_fails_alone(model: GatedModel, loop: GenerationLoop) -> None:
    model.unwelcome, model.dead = 1, 2
    model.let(100)
    long, dead, good = await asyncio.gather(
        *(start(loop, codes(seed)) for seed in (1, 2, 3)), return_exceptions=True
    )
    assert isinstance(long, PlannerError) and str(long) == "too long"
    assert isinstance(dead, PlannerError) and str(dead) == "out of luck"
    assert good == write_now(WalkingModel(), codes(3))


async def test_a_failed_model_takes_no_more_steps(model: GatedModel, loop: GenerationLoop) -> None:
    running = [start(loop, codes(1)), start(loop, codes(2))]
    model.let(2)
    await until(lambda: model.entered == 3)
    model.broken = RuntimeError("out of words")
    model.let(100)
    running.append(start(loop, codes(3)))
    for failed in await asyncio.gather(*running, return_exceptions=True):
        assert isinstance(failed, PlannerError)
        assert str(failed) == f"{loop.failure} Send the request once more."
    assert loop.failure == (
        "The language model failed: out of words. It is loaded again when a request needs it."
    )
    assert sorted(model.aborted) == [0, 1]
    assert len(model.generations) == 2, "nothing more was asked of it"


async def test_the_error_of_a_failed_model_is_freed(
    model: GatedModel, loop: GenerationLoop, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("CRITICAL", "acestep.planner.loop")  # as what captures records keeps their errors
    running = start(loop, codes(1))
    model.let(1)
    await until(lambda: len(model.together) == 1)
    model.broken = OddError()
    held = weakref.ref(model.broken)
    model.let(100)
    with pytest.raises(PlannerError, match="failed: OddError"):
        await running
    gc.collect()  # as whoever loads it again does
    assert held() is None, "its frames hold the model"


async def test_out_of_memory_is_reported_and_its_memory_freed(
    model: GatedModel, loop: GenerationLoop
) -> None:
    running = start(loop, codes(1))
    model.let(1)
    await until(lambda: len(model.together) == 1)
    model.broken = ScarcityError()
    held = weakref.ref(model.broken)
    model.let(100)
    with pytest.raises(NotEnoughMemoryError, match="stage plan"):
        await running
    gc.collect()  # as whoever tries again does
    assert held() is None
    assert not loop.failure
    assert await start(loop, codes(3)) == write_now(WalkingModel(), codes(3))


async def test_the_duration_of_the_current_step_is_known(model: GatedModel, loop: GenerationLoop) -> None:
    assert loop.silence() == 0.0
    writing = start(loop, codes(1))
    await until(lambda: loop.silence() > 0.02)
    model.let(1000)
    await writing
    await until(lambda: loop.silence() == 0.0)


async def test_closing_ends_the_thread_and_fails_running_texts(model: GatedModel) -> None:
    loop = GenerationLoop(model)
    waiting = start(loop, codes(1))
    model.let(1)
    await until(lambda: len(model.together) == 1)
    closing = asyncio.create_task(asyncio.to_thread(loop.close))
    await asyncio.sleep(0.01)
    model.let(1)
    await closing
    with pytest.raises(PlannerError, match="shut down"):
        await waiting
    with pytest.raises(PlannerError, match="shut down"):
        await start(loop, codes(2))
    loop.close()  # again, which is no error
    assert model.closed == 0, "a process that ends need not wait for that"


async def test_a_model_that_cannot_be_closed_is_dropped(
    model: GatedModel, loop: GenerationLoop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    loop.close()
    loop.free_model()
    assert model.closed == 1
    monkeypatch.setattr(model, "close", Failing())
    loop.free_model()
    assert "could not be closed" in caplog.text
