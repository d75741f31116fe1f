"""Which pieces nano is trained on: free ones, solos of every instrument, covers and references."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from training.nano.music.composer import compose
from training.nano.music.instruments import INSTRUMENTS
from training.nano.music.piece import DRUMS, Wish
from training.nano.pairs import cover_order, reference_order
from training.nano.sound.store import Order

_LENGTHS = (12, 16, 20, 30, 45, 60)  # seconds
_SOLO_LENGTHS = (10, 14, 20)
_SOLO_SEED, _FREE_SEED = 100_000, 200_000  # below the seeds that are held out
_PAIRED = 4  # of so many free pieces one has a cover, and one a reference
_LONGEST_PAIRED = 30


@dataclass(frozen=True, slots=True)
class Family:
    """A piece, and the two others that its pairs need, where it has them."""

    own: Order
    cover: Order | None = None
    reference: Order | None = None

    @property
    def orders(self) -> tuple[Order, ...]:
        return tuple(order for order in (self.own, self.cover, self.reference) if order is not None)


def families(free: int, solos: int) -> Iterator[Family]:
    """`free` pieces of the composer's choice, and `solos` of each instrument and of drums."""
    for number in range(solos):
        for place, name in enumerate((*INSTRUMENTS, DRUMS, DRUMS)):
            wish = Wish(ensemble=()) if name == DRUMS else Wish(ensemble=(name,), drums=False)
            seconds = float(_SOLO_LENGTHS[(number + place) % len(_SOLO_LENGTHS)])
            seed = _SOLO_SEED + 3 * (number * 100 + place)
            yield Family(Order(seed, seconds, wish, number % 2))
    for number in range(free):
        own = Order(
            _FREE_SEED + 3 * number,
            float(_LENGTHS[number % len(_LENGTHS)]),
            font=(number // len(_LENGTHS)) % 2,
        )
        yield _with_pairs(own) if _has_pairs(number, own) else Family(own)


def orders(chosen: Sequence[Family]) -> list[Order]:
    """All pieces of families, each once."""
    return list(dict.fromkeys(order for family in chosen for order in family.orders))


def _has_pairs(number: int, own: Order) -> bool:
    return own.seconds <= _LONGEST_PAIRED and (number // len(_LENGTHS)) % _PAIRED < 2


def _with_pairs(own: Order) -> Family:
    piece = compose(own.seed, own.seconds, own.wish)
    cover = cover_order(own, piece, random.Random(own.seed))
    if cover.wish.ensemble == () and piece.facts.heard:  # nothing else can play it
        return Family(own, reference=reference_order(own, piece))
    return Family(own, replace(cover, font=own.font), reference_order(own, piece))
