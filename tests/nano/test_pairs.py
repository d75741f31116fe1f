from __future__ import annotations

import random

import numpy as np
import pytest

from training.nano import pairs
from training.nano.music.composer import compose
from training.nano.music.piece import Wish
from training.nano.sound.mixing import SAMPLE_RATE
from training.nano.sound.store import Order, Rendered

SECONDS = 16.0
WISH = Wish("pop", 120, "C major", "4", ("flute", "acoustic guitar", "electric guitar"), drums=True)


def played(seed: int, wish: Wish) -> Rendered:
    """Every stem a constant of its own, so that sums can be told."""
    piece = compose(seed, SECONDS, wish)
    samples = round(SECONDS * SAMPLE_RATE)
    return Rendered(
        piece,
        {
            stem.name: np.full((2, samples), 2.0**number, dtype=np.float32)
            for number, stem in enumerate(piece.stems)
        },
    )


@pytest.fixture(scope="module")
def song() -> Rendered:
    return played(1, WISH)


def test_stems_of_one_track_go_together(song: Rendered) -> None:
    assert list(song.stems) == ["flute", "acoustic guitar", "electric guitar", "drums"]
    assert pairs.tracks(song) == ("woodwinds", "guitar", "drums")


def test_extract(song: Rendered) -> None:
    pair = pairs.extract(song, "guitar")
    assert (pair.task, pair.tracks) == ("extract", ("guitar",))
    assert pair.source is not None and pair.source[0, 0] == 15.0
    assert pair.target[0, 0] == 6.0
    assert pair.target.shape == pair.source.shape == (2, 16 * 48_000)
    assert set(pair.facts.heard) == {"acoustic guitar", "electric guitar"}
    assert not pair.facts.has_drums
    assert pairs.extract(song, "drums").facts.solo == "drums"


def test_lego(song: Rendered) -> None:
    pair = pairs.lego(song, "drums")
    assert pair.source is not None and (pair.source[0, 0], pair.target[0, 0]) == (7.0, 15.0)
    assert pair.facts == song.piece.facts
    alone = pairs.lego(song, "drums", whole=False)
    assert alone.target[0, 0] == 8.0
    assert alone.facts.solo == "drums"


def test_complete(song: Rendered) -> None:
    pair = pairs.complete(song, "woodwinds")
    assert pair.source is not None and (pair.source[0, 0], pair.target[0, 0]) == (1.0, 15.0)
    assert pair.tracks == ("guitar", "drums")


def test_a_track_that_is_not_there_is_refused(song: Rendered) -> None:
    with pytest.raises(ValueError, match="brass does not play in this piece: take one of woodwinds, guitar"):
        pairs.extract(song, "brass")
    solo = played(1, Wish(ensemble=("flute",), drums=False))
    for task in (pairs.lego, pairs.complete):
        with pytest.raises(ValueError, match="woodwinds is all that there is"):
            task(solo, "woodwinds")


@pytest.mark.parametrize("seed", range(12))
def test_a_cover_keeps_the_notes_and_changes_the_instruments(seed: int) -> None:
    order = Order(seed, SECONDS)
    piece = compose(seed, SECONDS)
    asked = pairs.cover_order(order, piece, random.Random(seed))
    covered = compose(asked.seed, asked.seconds, asked.wish)
    before, after = piece.facts, covered.facts
    assert (after.bpm, after.time_signature) == (before.bpm, before.time_signature)
    assert covered.material == piece.material
    if before.heard:
        assert after.key_scale == before.key_scale
        assert set(after.heard) & set(before.heard) == set()
        assert after.style != before.style
    assert [section.start for section in covered.sections] == [section.start for section in piece.sections]


def test_a_cover_of_something_else_is_refused(song: Rendered) -> None:
    with pytest.raises(ValueError, match="needs the material of its source"):
        pairs.cover(song, played(2, WISH))


def test_a_reference_has_the_same_timbres_and_another_tune() -> None:
    order = Order(5, SECONDS, WISH)
    target = played(5, WISH)
    asked = pairs.reference_order(order, target.piece)
    other = played(asked.seed, asked.wish)
    assert set(other.piece.facts.heard) == set(target.piece.facts.heard)
    assert other.piece.facts.has_drums
    assert other.piece.notes != target.piece.notes
    pair = pairs.reference(target, other)
    assert (pair.task, pair.source) == ("text2music", None)
    assert pair.reference is not None


def test_a_repaint_lies_between_bars(song: Rendered) -> None:
    for seed in range(20):
        pair = pairs.repaint(song, random.Random(seed))
        assert pair.window is not None and pair.source is not None
        start, end = pair.window
        assert 0 <= start < end <= SECONDS
        assert end - start <= 0.6 * SECONDS
        assert (start / 2.0) % 1.0 == pytest.approx(0.0)  # a bar lasts two seconds
        heard = pairs.outside(pair)
        inside = slice(round(start * SAMPLE_RATE), round(end * SAMPLE_RATE))
        assert np.abs(heard[:, inside]).max() == 0.0
        assert heard.sum() < pair.source.sum()
    assert np.all(pair.source == 15.0)
