"""Work and loads that run out of memory or descriptors."""

from __future__ import annotations

import errno
import weakref
from dataclasses import replace

import pytest

from acestep.engine.threads import (
    DESCRIPTOR_DELAYS,
    MEMORY_DELAYS,
    OomRetry,
    WorkItem,
    load_or_give_up,
)
from acestep.errors import CheckpointError, NotEnoughMemoryError

SONG = WorkItem("decode", "hum", 240.0)


class Weight:
    """Memory that failing work holds."""


class Hungry:
    """Work that fails for want of memory, `times` times; what it held when it failed is in `held`."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.held: list[weakref.ref[Weight]] = []

    def __call__(self) -> str:
        if len(self.held) == self.times:
            return "a song"
        weight = Weight()
        self.held.append(weakref.ref(weight))
        raise MemoryError


def test_what_failed_is_gone_before_memory_is_freed() -> None:
    work, seen = Hungry(2), []
    oom_retry = OomRetry(lambda: seen.append([held() for held in work.held]))
    with pytest.raises(NotEnoughMemoryError) as caught:
        oom_retry.retry_with_less(SONG, work)
    assert seen == [[None], [None, None]]
    assert (caught.value.__context__, caught.value.__cause__) == (None, None)


def test_it_is_tried_again_with_less() -> None:
    assert OomRetry().retry_with_less(SONG, Hungry(1), lambda: "in pieces") == "in pieces"
    assert OomRetry().retry_with_less(SONG, Hungry(1)) == "a song"  # now that it has all to itself


def test_there_is_no_third_try() -> None:
    work = Hungry(9)
    with pytest.raises(NotEnoughMemoryError, match="stage decode"):
        OomRetry().retry_with_less(SONG, work)
    assert len(work.held) == 2


def test_other_errors_are_not_tried_again() -> None:
    calls: list[int] = []

    def broken() -> None:
        calls.append(1)
        raise ArithmeticError("out of tune")

    with pytest.raises(ArithmeticError, match="out of tune"):
        OomRetry().retry_with_less(SONG, broken)
    assert calls == [1]


class TestOomSentences:
    def told(self, oom_retry: OomRetry, piece: WorkItem) -> str:
        with pytest.raises(NotEnoughMemoryError) as caught:
            oom_retry.run(piece, Hungry(1))
        return str(caught.value)

    def test_half_may_fit(self) -> None:
        told = self.told(OomRetry(), SONG)
        assert "stage decode" in told and "240 s" in told and "half as long (120 s)" in told

    def test_what_went_through_fits(self) -> None:
        oom_retry = OomRetry()
        for seconds in (90.0, 60.0, 300.0):
            oom_retry.run(replace(SONG, model="another" if seconds > 240 else "hum", seconds=seconds), str)
        oom_retry.run(replace(SONG, stage="render", seconds=200.0), str)
        assert "up to 90 s have gone through" in self.told(oom_retry, SONG)

    def test_the_shortest_cannot_be_shorter(self) -> None:
        told = self.told(OomRetry(), replace(SONG, seconds=10.0))
        assert "fewer songs at once (batch_size)" in told

    def test_nobody_knows_how_long_it_is(self) -> None:
        assert "audio is too large" in self.told(OomRetry(), WorkItem("encode", "hum", None, "audio"))


def full() -> OSError:
    return OSError(errno.EMFILE, "Too many open files", "/models/config.json")


def wrapped(cause: Exception) -> CheckpointError:
    error = CheckpointError("config.json: cannot be read")
    error.__cause__ = cause
    return error


class TestLoadsAreTriedAgain:
    """Where descriptors or memory were used up; the times are not waited for."""

    async def load(self, *errors: Exception) -> tuple[str | None, list[float], list[str]]:
        left, slept, reasons = list(errors), list[float](), list[str]()

        async def load() -> str:
            if left:
                raise left.pop(0)
            return "model"

        async def sleep(seconds: float) -> None:
            slept.append(seconds)

        return await load_or_give_up("It", load, reasons.append, sleep), slept, reasons

    @pytest.mark.parametrize(
        "error",
        [
            full(),
            OSError(errno.ENFILE, "Too many open files in system"),
            wrapped(full()),
            wrapped(wrapped(full())),
            RuntimeError("I/O error: Too many open files (os error 24)"),
        ],
    )
    async def test_descriptors(self, error: Exception):
        found, slept, reasons = await self.load(error, error)
        assert (found, slept, reasons) == ("model", [1.0, 3.0], [])

    async def test_memory(self):
        error = NotEnoughMemoryError("load", "it is too large")
        found, slept, reasons = await self.load(error)
        assert (found, slept, reasons) == ("model", [1.0], [])

    async def test_not_for_ever(self):
        found, slept, reasons = await self.load(*[wrapped(full())] * 9)
        assert (found, tuple(slept)) == (None, DESCRIPTOR_DELAYS)
        assert sum(DESCRIPTOR_DELAYS) > 75  # seconds after which idle connections give theirs back
        assert reasons == ["config.json: cannot be read"]
        found, slept, reasons = await self.load(*[NotEnoughMemoryError("load", "it is too large")] * 9)
        assert (found, tuple(slept)) == (None, MEMORY_DELAYS)

    @pytest.mark.parametrize(
        "error", [CheckpointError("config.json is missing"), OSError(errno.ENOENT, "gone"), ValueError("x")]
    )
    async def test_other_errors_are_final(self, error: Exception):
        found, slept, reasons = await self.load(error)
        assert (found, slept, len(reasons)) == (None, [], 1)
