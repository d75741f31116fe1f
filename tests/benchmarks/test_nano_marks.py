from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.nano_detector import LABELS
from benchmarks.nano_marks import Marks, Measured, mark, shares
from benchmarks.nano_prompts import Prompt
from benchmarks.nano_scores import Edges
from training.nano.music.piece import DRUMS

ASKED = Prompt(1, "en", "flute", 6.0, 120, "C major", "4", "folk", None, ("flute", "harp"), True, ())
SONG = Edges(begins_quiet=True, ends_quiet=True, falls=True, is_clean=True)


def measured(**sure: float) -> Measured:
    return Measured(121.0, "C major", "4", dict.fromkeys(LABELS, 0.0) | sure, SONG, -18.0)


def test_a_song_as_it_was_asked_for() -> None:
    marks = mark(ASKED, measured(flute=0.9, harp=0.8, drums=0.7))
    assert marks == Marks(True, True, True, True, True, None, True, 1.0, True, True)


def test_what_is_wrong_is_wrong() -> None:
    asked = replace(ASKED, bpm=97, key_scale="F# major", time_signature="3", drums=False)
    cut = replace(measured(flute=0.9, harp=0.1, drums=0.7), edges=replace(SONG, ends_quiet=False))
    assert mark(asked, cut) == Marks(False, False, False, False, False, None, False, 0.5, False, False)


@pytest.mark.parametrize(
    ("heard", "octave", "exact"),
    [
        (120.0, True, True),
        (124.7, True, True),
        (125.0, False, False),
        (60.0, True, False),
        (241.0, True, False),
    ],
)
def test_tempo(heard: float, octave: bool, exact: bool) -> None:
    marks = mark(ASKED, replace(measured(), bpm=heard))
    assert (marks.tempo, marks.tempo_exact) == (octave, exact)


@pytest.mark.parametrize(
    ("heard", "relative", "exact"),
    [("C major", True, True), ("A minor", True, False), ("C minor", False, False), ("G major", False, False)],
)
def test_key(heard: str, relative: bool, exact: bool) -> None:
    marks = mark(ASKED, replace(measured(), key=heard))
    assert (marks.key, marks.key_exact) == (relative, exact)
    without = mark(replace(ASKED, key_scale=None), replace(measured(), key=heard))
    assert (without.key, without.key_exact) == (None, None)


@pytest.mark.parametrize(("solo", "right"), [("flute", True), ("harp", False), (DRUMS, False)])
def test_solos(solo: str, right: bool) -> None:
    asked = replace(ASKED, solo=solo, instruments=(solo,), drums=solo == DRUMS)
    marks = mark(asked, measured(flute=0.9, harp=0.8))
    assert (marks.solo, marks.mixed, marks.named) == (right, None, None)


def test_two_beats_are_heard_as_four() -> None:
    assert mark(replace(ASKED, time_signature="2"), measured()).metre


def test_shares_count_what_was_asked_for() -> None:
    one = Marks(True, True, None, None, True, True, None, None, True, True)
    other = Marks(False, True, True, False, True, None, False, 0.5, True, True)
    assert shares([one, other]) == {
        "tempo": 0.5, "tempo_exact": 1.0, "key": 1.0, "key_exact": 0.0, "metre": 1.0, "solo": 1.0,
        "mixed": 0.0,
        "named": 0.5, "drums": 1.0, "edges": 1.0,
    }  # fmt: skip
