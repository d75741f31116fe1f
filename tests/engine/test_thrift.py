from __future__ import annotations

import weakref
from dataclasses import replace

import pytest

from acestep.engine.thrift import Piece, Thrift
from acestep.errors import NotEnoughMemoryError

SONG = Piece("decode", "hum", 240.0)


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
    thrift = Thrift(lambda: seen.append([held() for held in work.held]))
    with pytest.raises(NotEnoughMemoryError) as caught:
        thrift.twice(SONG, work)
    assert seen == [[None], [None, None]]
    assert (caught.value.__context__, caught.value.__cause__) == (None, None)


def test_it_is_tried_again_with_less() -> None:
    assert Thrift().twice(SONG, Hungry(1), lambda: "in pieces") == "in pieces"
    assert Thrift().twice(SONG, Hungry(1)) == "a song"  # now that it has all to itself


def test_there_is_no_third_try() -> None:
    work = Hungry(9)
    with pytest.raises(NotEnoughMemoryError, match="stage decode"):
        Thrift().twice(SONG, work)
    assert len(work.held) == 2


def test_other_errors_are_not_tried_again() -> None:
    calls: list[int] = []

    def broken() -> None:
        calls.append(1)
        raise ArithmeticError("out of tune")

    with pytest.raises(ArithmeticError, match="out of tune"):
        Thrift().twice(SONG, broken)
    assert calls == [1]


class TestSentences:
    def told(self, thrift: Thrift, piece: Piece) -> str:
        with pytest.raises(NotEnoughMemoryError) as caught:
            thrift.once(piece, Hungry(1))
        return str(caught.value)

    def test_half_may_fit(self) -> None:
        told = self.told(Thrift(), SONG)
        assert "stage decode" in told and "240 s" in told and "half as long (120 s)" in told

    def test_what_went_through_fits(self) -> None:
        thrift = Thrift()
        for seconds in (90.0, 60.0, 300.0):
            thrift.once(replace(SONG, model="another" if seconds > 240 else "hum", seconds=seconds), str)
        thrift.once(replace(SONG, stage="render", seconds=200.0), str)
        assert "up to 90 s have gone through" in self.told(thrift, SONG)

    def test_the_shortest_cannot_be_shorter(self) -> None:
        told = self.told(Thrift(), replace(SONG, seconds=10.0))
        assert "fewer songs at once (batch_size)" in told

    def test_nobody_knows_how_long_it_is(self) -> None:
        assert "audio is too large" in self.told(Thrift(), Piece("encode", "hum", None, "audio"))
