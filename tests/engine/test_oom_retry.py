from __future__ import annotations

import weakref
from dataclasses import replace

import pytest

from acestep.engine.batching import BatchLimit
from acestep.engine.renderer import Loaded
from acestep.engine.threads import OomRetry, WorkItem
from acestep.errors import NotEnoughMemoryError
from tests.engine.fakes import INFO, FakeRenderer

SONG = WorkItem("decode", "hum", 240.0)


class Weight:
    """Something that a failing stage holds."""


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


class TestSentences:
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


class TestBounds:
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

    def test_a_model_that_is_loaded_anew_has_all_its_chances(self) -> None:
        batch_limit, model = BatchLimit(), self.model()
        batch_limit.learn(model, 60.0, 4)
        assert batch_limit.most(self.model(), 60.0) == 8

    def test_it_keeps_no_model_in_memory(self) -> None:
        batch_limit, model = BatchLimit(), self.model()
        batch_limit.learn(model, 60.0, 4)
        there = weakref.ref(model)
        del model
        assert there() is None
