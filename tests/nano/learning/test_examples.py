import dataclasses
import random

import numpy as np
import pytest
import torch

from acestep.domain.song import HINTED_INSTRUCTION
from training.nano.learning.examples import (
    FRAME_RATE,
    LONGEST,
    REFERENCE_FRAMES,
    Group,
    Shelf,
    excerpt,
    scale_of,
    scaled,
)
from training.nano.learning.pool import MIX, RAW, Coded, Latents
from training.nano.music.composer import compose
from training.nano.music.instruments import track_of
from training.nano.music.piece import Facts, Wish
from training.nano.orders import Family, families, orders
from training.nano.pairs import cover_order, reference_order
from training.nano.sound.store import Order
from training.nano.theory import Key

CHANNELS = sum(RAW.sizes)
BAND = Wish(ensemble=("flute", "piano", "double bass"), drums=True)


def coded(order: Order, level: float = 0.0) -> Coded:
    """A piece with noise for latents; each track has its own."""
    piece = compose(order.seed, order.seconds, order.wish)
    tracks = tuple(dict.fromkeys(track_of(stem.name) for stem in piece.stems))
    names = [MIX, *(f"{kind}:{track}" for kind in ("of", "but") for track in tracks if len(tracks) > 1)]
    chance = np.random.default_rng(order.seed)
    shape = (round(order.seconds * FRAME_RATE), CHANNELS)
    return Coded(piece, {name: chance.normal(-30 + level, 8, shape).astype(np.float16) for name in names})


def band(seed: int = 1, seconds: float = 12.0) -> Group:
    own = Order(seed, seconds, BAND)
    made = coded(own)
    other = cover_order(own, made.piece, random.Random(0))
    return Group(made, coded(other), coded(reference_order(own, made.piece)))


@pytest.fixture(scope="module")
def shelf() -> Shelf:
    return Shelf([band()], RAW)


def tonic(facts: Facts) -> int:
    assert facts.key_scale is not None
    return Key.parse(facts.key_scale).tonic


def is_part(target: torch.Tensor, whole: Latents) -> bool:
    """Whether a target is a cut of latents; levels are the same in any key."""
    own = torch.from_numpy(whole.astype(np.float32))[:, RAW.semitones :]
    rows = target[:, RAW.semitones :]
    return any(torch.equal(rows, own[at : at + len(rows)]) for at in range(len(own) - len(rows) + 1))


@pytest.mark.parametrize("task", ["extract", "lego", "complete"])
def test_stems_are_taken_out_added_and_filled_in(shelf: Shelf, task: str) -> None:
    latents = band().own.latents
    for seed in range(6):
        example = shelf.example(250, random.Random(seed), task)
        source = example.source
        assert example.plan.task_type == task and source is not None and not example.hinted
        pairs = {
            name.partition(":")[2]
            for name in latents
            if is_part(example.target if task == "extract" else source, latents[name])
        }
        (track,) = pairs
        assert is_part(source if task == "extract" else example.target, latents[MIX])
        named = example.plan.instruction
        if task == "complete":
            assert track.upper() not in named
        else:
            assert track.upper() in named or "the track" in named


def test_a_cover_becomes_codes_first_or_is_followed_itself(shelf: Shelf) -> None:
    examples = [shelf.example(250, random.Random(seed), "cover") for seed in range(30)]
    assert {example.hinted for example in examples} == {True, False}
    for example in examples[:5]:
        assert example.plan.instruction == HINTED_INSTRUCTION
        assert example.source is not None and not torch.equal(example.target, example.source)


def test_a_repaint_has_a_window(shelf: Shelf) -> None:
    for seed in range(5):
        example = shelf.example(250, random.Random(seed), "repaint")
        assert example.source is not None and torch.equal(example.target, example.source)
        assert example.mask is not None
        written = int(example.mask.sum())
        assert 250 // 8 <= written <= 150 and int(example.mask.diff().abs().sum()) <= 2


def test_a_reference_is_as_long_as_the_server_takes_it(shelf: Shelf) -> None:
    example = shelf.example(250, random.Random(0), "reference")
    assert example.reference is not None and example.reference.shape == (REFERENCE_FRAMES, CHANNELS)


def test_a_reference_is_the_middle_of_each_third() -> None:
    frames = torch.arange(900.0)[:, None]
    taken = excerpt(frames)[:, 0].tolist()
    assert taken[:1] + taken[250:251] + taken[500:501] == [25.0, 325.0, 625.0]
    assert len(excerpt(frames[:100])) == REFERENCE_FRAMES


def test_transposed_music_is_in_the_key_that_is_told(shelf: Shelf) -> None:
    own = band().own
    mix = torch.from_numpy(own.mix.astype(np.float32))
    keys = set()
    for seed in range(12):
        example = shelf.example(300, random.Random(seed), "repaint")
        keys.add(example.facts.key_scale)
        move = (tonic(example.facts) - tonic(own.piece.facts) + 5) % 12 - 5
        kept = slice(max(0, move), RAW.semitones + min(0, move))
        assert torch.equal(example.target[:, kept], mix[:, kept.start - move : kept.stop - move])
    assert len(keys) >= 4


def test_the_source_of_a_later_place_begins_there() -> None:
    shelf = Shelf([band(seconds=30.0)], RAW)
    facts = band(seconds=30.0).own.piece.facts
    bar = 60.0 / facts.bpm * facts.beats
    starts = set()
    for seed in range(60):
        example = shelf.example(250, random.Random(seed), "text2music")
        place = example.facts.place
        assert example.start == round(place.start * FRAME_RATE)
        assert place.start + 10.0 <= place.whole + 1e-6 <= LONGEST + 1e-6
        assert example.plan.duration == place.whole
        if not place.starts and not place.ends:
            bars = round(place.start / bar)
            assert place.start == pytest.approx(bars * bar, abs=0.5 / FRAME_RATE + 1e-6)
        starts.add(example.start)
    assert max(starts) > 30 * FRAME_RATE and 0 in starts


def test_pairs_too_short_for_a_clip_give_way_to_songs() -> None:
    own = dataclasses.replace(band(seconds=45.0), cover=None)
    shelf = Shelf([band(), own], RAW)
    assert shelf.example(1125, random.Random(0), "cover").plan.task_type == "text2music"


def test_the_scale_makes_latents_of_mean_0_and_deviation_1() -> None:
    own = band().own
    scale = scale_of([own])
    raw = torch.from_numpy(own.mix.astype(np.float32))
    tones, levels, _, _ = scale.sizes
    latents = scaled(raw, scale)
    for group in (latents[:, :tones], latents[:, tones : tones + levels]):
        assert float(group.mean()) == pytest.approx(0.0, abs=0.05)
        assert float(group.std()) == pytest.approx(1.0, abs=0.05)


def test_orders_stay_below_what_is_held_out_and_pairs_belong_together() -> None:
    chosen = list(families(24, 1))
    assert chosen == list(families(24, 1))
    every = orders(chosen)
    assert len({order.name for order in every}) == len(every)
    assert max(order.seed for order in every) < 1_000_000
    paired: list[Family] = [family for family in chosen if family.cover]
    assert paired
    for family in paired[:3]:
        assert family.cover is not None
        own, cover = (compose(each.seed, each.seconds, each.wish) for each in (family.own, family.cover))
        assert own.material == cover.material and own.facts.heard != cover.facts.heard
