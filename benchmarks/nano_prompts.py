"""The 120 prompts that nano is measured on, with what is true of the music that they ask for.

    uv run python -m benchmarks.nano_prompts        writes nano_prompts.json anew

Half are Japanese. 40 ask for one instrument alone, 40 for a band with drums, 40 for one without. The pieces
behind them, which `piece` composes, are the ceiling; none was trained on, since training counts from seed 0.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from training.nano.music.composer import compose
from training.nano.music.instruments import INSTRUMENTS
from training.nano.music.piece import DRUMS, Facts, Piece, Wish
from training.nano.words import english, japanese
from training.nano.words.choosing import choose
from training.nano.words.claims import Claim, is_true

PROMPTS = Path(__file__).parent / "nano_prompts.json"
COUNT = 120
_FIRST_SEED = 1_000_000
_LENGTHS = (12.0, 20.0, 30.0)


@dataclass(frozen=True, slots=True)
class Prompt:
    """`prompt`, `bpm`, `key_scale`, `time_signature` and `seconds` are sent; the rest is what they ask for.

    `instruments` are those that the prompt names, drums left out; `solo` is the one that is to play alone.
    """

    seed: int
    language: str
    prompt: str
    seconds: float
    bpm: int
    key_scale: str | None
    time_signature: str
    style: str
    solo: str | None
    instruments: tuple[str, ...]
    drums: bool
    claims: tuple[tuple[str, str, str], ...]


def build() -> list[Prompt]:
    """All prompts, in an order in which kinds and languages take turns."""
    alone = [*INSTRUMENTS, DRUMS, DRUMS]
    prompts = []
    for number in range(COUNT):
        kind, turn = number % 3, number // 3
        wish = _wish(alone[turn]) if kind == 0 else Wish(drums=kind == 1)
        found = _found(_FIRST_SEED + 100 * number, _LENGTHS[turn % 3], wish, alone=kind == 0)
        prompts.append(_prompt(*found, "ja" if (turn + kind) % 2 else "en"))
    return prompts


def load() -> list[Prompt]:
    """The prompts as they are committed."""
    entries = json.loads(PROMPTS.read_text(encoding="utf-8"))
    tuples = ("instruments", "claims")
    return [Prompt(**{**entry, **{name: _tuple(entry[name]) for name in tuples}}) for entry in entries]


def piece(prompt: Prompt) -> Piece:
    """The piece behind a prompt."""
    alone = prompt.solo is not None
    wish = _wish(prompt.solo) if prompt.solo else Wish(drums=prompt.drums)
    _, found = _found(prompt.seed, prompt.seconds, wish, alone=alone)
    return found


def _tuple(value: Sequence[object]) -> tuple[object, ...]:
    return tuple(tuple(each) if isinstance(each, list) else each for each in value)


def _wish(name: str) -> Wish:
    return Wish(ensemble=()) if name == DRUMS else Wish(ensemble=(name,), drums=False)


def _found(seed: int, seconds: float, wish: Wish, *, alone: bool) -> tuple[int, Piece]:
    """The first seed from `seed` on whose piece is a solo, or is none."""
    while True:
        made = compose(seed, seconds, wish)
        if (made.facts.solo is not None) == alone:
            return seed, made
        seed += 1


def _prompt(seed: int, made: Piece, language: str) -> Prompt:
    facts, rng = made.facts, random.Random(seed)
    claims = _claims(facts, rng)
    text = (japanese if language == "ja" else english).caption(claims, rng)
    named = [claim.value for claim in claims if claim.kind == "instrument" and claim.polarity != "not"]
    return Prompt(
        seed=seed,
        language=language,
        prompt=text,
        seconds=facts.seconds,
        bpm=facts.bpm,
        key_scale=facts.key_scale,
        time_signature=facts.time_signature,
        style=facts.style,
        solo=facts.solo,
        instruments=tuple(name for name in facts.instruments if name in named),
        drums=facts.has_drums,
        claims=tuple((claim.kind, claim.value, claim.polarity) for claim in claims),
    )


def _claims(facts: Facts, rng: random.Random) -> list[Claim]:
    """What must be measured, and some of the rest."""
    if facts.solo:
        needed = [Claim("instrument", facts.solo, "only")]
    else:
        names = rng.sample(facts.instruments, k=min(len(facts.instruments), rng.choice((1, 2, 2, 3))))
        needed = [Claim("style", facts.style), *(Claim("instrument", name) for name in names)]
        needed.append(Claim("instrument", DRUMS, "is" if facts.has_drums else "not"))
    taken = {claim.kind for claim in needed} | {"place", "key", "bpm", "metre"}
    more = [claim for claim in choose(facts, rng) if claim.kind not in taken and is_true(claim, facts)]
    return [*needed, *more[:2]]


def main() -> None:
    """Entry point."""
    entries = [asdict(prompt) for prompt in build()]
    PROMPTS.write_text(json.dumps(entries, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
