"""What people would write to get a clip: a caption in either language, and the facts stated beside it."""

from __future__ import annotations

import random
from dataclasses import dataclass

from acestep.planner.lexicon import words_of
from training.nano.music.piece import Facts
from training.nano.theory import enharmonic
from training.nano.words import english, japanese
from training.nano.words.choosing import choose
from training.nano.words.claims import Claim
from training.nano.words.vocabulary import ENGLISH, JAPANESE

JAPANESE_SHARE = 0.5
_SILENT = 0.04  # share of captions that say nothing
_GIVEN = 0.7  # share of clips that have a fact in their metadata


@dataclass(frozen=True, slots=True)
class Caption:
    """A text and what it claims; a cut's text says that it is one."""

    text: str
    claims: tuple[Claim, ...]


@dataclass(frozen=True, slots=True)
class Metas:
    """The facts that a request states apart from its caption; None: not stated."""

    bpm: int | None
    key_scale: str | None
    time_signature: str | None


def caption(facts: Facts, rng: random.Random) -> Caption:
    """One caption; two calls seldom give the same. Now and then it is empty."""
    claims = choose(facts, rng)
    if facts.place.starts and facts.place.ends and rng.random() < _SILENT:
        return Caption("", ())
    written = japanese if rng.random() < JAPANESE_SHARE else english
    return Caption(written.caption(claims, rng), tuple(claims))


def metas(facts: Facts, rng: random.Random) -> Metas:
    """Mostly all facts, sometimes only some, sometimes none."""
    if rng.random() < 0.15:
        return Metas(None, None, None)
    key = facts.key_scale
    if key and rng.random() < 0.3:
        key = enharmonic(key)
    return Metas(
        bpm=facts.bpm if rng.random() < _GIVEN else None,
        key_scale=key if rng.random() < _GIVEN else None,
        time_signature=facts.time_signature if rng.random() < _GIVEN else None,
    )


def known_words() -> frozenset[str]:
    """Every word of the vocabulary, for a planner's lexicon."""
    phrases = (
        phrase
        for table in (ENGLISH, JAPANESE)
        for values in table.values()
        for phrases in values.values()
        for phrase in phrases
    )
    return frozenset(word for phrase in phrases for word in words_of(phrase))
