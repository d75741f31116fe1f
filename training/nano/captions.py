"""What people would write to get a piece: captions in many shapes, and which facts come as metadata.

Every statement is true of the piece; what is said, in which words and order, is drawn.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

from acestep.planner.lexicon import Lexicon, words_of
from training.nano.composer import Piece
from training.nano.styles import INSTRUMENTS, STYLES
from training.nano.theory import ENHARMONIC, KEY_SCALES, enharmonic

_MOODS = {
    # (mode, energy) -> words
    ("major", 0): ("calm", "peaceful", "gentle", "warm", "dreamy", "soft"),
    ("major", 1): ("happy", "bright", "cheerful", "sunny", "uplifting", "light"),
    ("major", 2): ("upbeat", "energetic", "joyful", "lively", "exciting", "triumphant"),
    ("minor", 0): ("melancholic", "sad", "quiet", "nostalgic", "lonely", "mysterious"),
    ("minor", 1): ("moody", "wistful", "dark", "emotional", "bittersweet", "serious"),
    ("minor", 2): ("intense", "dramatic", "driving", "epic", "tense", "powerful"),
}
_MOODS_JA = {
    ("major", 0): ("穏やかな", "優しい", "静かな"),
    ("major", 1): ("明るい", "楽しい", "爽やかな"),
    ("major", 2): ("元気な", "アップテンポで明るい", "ノリのいい"),
    ("minor", 0): ("切ない", "悲しい", "物静かな"),
    ("minor", 1): ("哀愁のある", "暗い", "感傷的な"),
    ("minor", 2): ("激しい", "緊張感のある", "疾走感のある"),
}
# Tempo words by the bpm below which they fit.
_TEMPI = (
    (76, ("slow", "very slow tempo", "slow tempo"), "遅い"),
    (104, ("mid-tempo", "moderate tempo", "relaxed tempo"), "ゆったりした"),
    (136, ("medium-fast", "walking-to-brisk tempo", "steady tempo"), "中くらいの"),
    (1000, ("fast", "fast tempo", "quick tempo"), "速い"),
)
_JAPANESE = 0.1  # share of captions
# The words of captions that stand in no table.
_SENTENCE = (
    "a an with led by featuring bpm at tempo in key of waltz time three four drums no instrumental vocals "
    "flat sharp"
)
_SENTENCE_JA = ("テンポ", "と", "の", "で")
_LONGEST = 160  # characters; the longest of 30,000 captions has 151
_GIVEN = 0.85  # share of pieces that have a fact in their metadata


@dataclass(frozen=True, slots=True)
class Metas:
    """The facts that a request states apart from its caption."""

    bpm: int | None
    key_scale: str | None
    time_signature: str | None


def lexicon() -> Lexicon:
    """All words that captions have, so that the planner need not guess at others. It learns no lyrics."""
    english = [word for words in _MOODS.values() for word in words]
    english += [words for _, many, _ in _TEMPI for words in many]
    english += [words for style in STYLES for words in style.words]
    english += [*INSTRUMENTS, *KEY_SCALES, *ENHARMONIC.values(), _SENTENCE]
    japanese = [word for words in _MOODS_JA.values() for word in words]
    japanese += [words for _, _, words in _TEMPI]
    japanese += [words for style in STYLES for words in style.words_ja]
    japanese += [*(name for _, name in INSTRUMENTS.values()), *_SENTENCE_JA]
    words = frozenset(word for text in (*english, *japanese) for word in words_of(text))
    return Lexicon(words, _LONGEST, writes_lyrics=False)


def metas(piece: Piece, rng: random.Random) -> Metas:
    """Mostly all facts, sometimes only some."""
    return Metas(
        bpm=piece.bpm if rng.random() < _GIVEN else None,
        key_scale=_spelled(piece, rng) if rng.random() < _GIVEN else None,
        time_signature=piece.time_signature if rng.random() < _GIVEN else None,
    )


def caption(piece: Piece, rng: random.Random) -> str:
    """One caption; two calls seldom give the same."""
    if rng.random() < _JAPANESE:
        return _japanese(piece, rng)
    head = _head(piece, rng)
    facts = _facts(piece, rng)
    rng.shuffle(facts)
    text = ", ".join([head, *facts])
    if rng.random() < 0.15:
        text = f"{_article(text)} {text}"
    if rng.random() < 0.15:
        text = text[0].upper() + text[1:] + "."
    return text.lower() if rng.random() < 0.1 else text


def _article(text: str) -> str:
    """By sound: an energetic rock, an 80s disco, a euphoric trance."""
    start = text[:2].lower()
    return "An" if start[0] in "aeiou8" and start != "eu" else "A"


def _head(piece: Piece, rng: random.Random) -> str:
    style = rng.choice(piece.style.words)
    words = [rng.choice(_mood(piece, _MOODS))] if rng.random() < 0.7 else []
    words.append(style)
    lead = piece.instruments[0] if piece.instruments else ""
    if lead and lead not in style and rng.random() < 0.3:
        words.append(rng.choice((f"with {lead}", f"led by {lead}", f"featuring {lead}")))
    return " ".join(words)


def _facts(piece: Piece, rng: random.Random) -> list[str]:
    facts: list[str] = []
    if rng.random() < 0.45:
        bpm = piece.bpm
        facts.append(rng.choice((f"{bpm} bpm", f"{bpm} BPM", f"at {bpm} bpm", f"tempo {bpm}", f"{bpm}bpm")))
    elif rng.random() < 0.5:
        facts.append(rng.choice(_tempo(piece.bpm)[0]))
    if rng.random() < 0.45:
        key = _spelled(piece, rng)
        facts.append(rng.choice((key, f"in {key}", f"key of {key}")))
    if rng.random() < 0.3:
        facts.append(
            rng.choice(("waltz time", "3/4", "in three"))
            if piece.time_signature == "3"
            else rng.choice(("4/4", "in four"))
        )
    names = list(piece.instruments)
    if names and rng.random() < 0.6:
        rng.shuffle(names)
        facts.extend(names[: rng.randint(1, len(names))])
    if rng.random() < 0.4:
        facts.append("drums" if piece.has_drums else "no drums")
    if rng.random() < 0.3:
        facts.append(rng.choice(_mood(piece, _MOODS)))
    if rng.random() < 0.2:
        facts.append(rng.choice(("instrumental", "no vocals")))
    return facts


def _japanese(piece: Piece, rng: random.Random) -> str:
    parts = [rng.choice(_mood(piece, _MOODS_JA)) + rng.choice(piece.style.words_ja)]
    if rng.random() < 0.5:
        parts.append(f"BPM{piece.bpm}" if rng.random() < 0.7 else f"{_tempo(piece.bpm)[1]}テンポ")
    if rng.random() < 0.4:
        parts.append(_spelled(piece, rng))
    if piece.instruments and rng.random() < 0.6:
        parts.append("と".join(INSTRUMENTS[name][1] for name in piece.instruments[:2]))
    return "、".join(parts)


def _mood(piece: Piece, table: Mapping[tuple[str, int], tuple[str, ...]]) -> tuple[str, ...]:
    return table[piece.key_scale.rpartition(" ")[2], piece.energy]


def _tempo(bpm: int) -> tuple[tuple[str, ...], str]:
    return next((words, japanese) for below, words, japanese in _TEMPI if bpm < below)


def _spelled(piece: Piece, rng: random.Random) -> str:
    return enharmonic(piece.key_scale) if rng.random() < 0.3 else piece.key_scale
