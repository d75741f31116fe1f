"""What nano's planner learns to say: the dialogues of the published language models, about our own pieces.

The wording is the server's own (`acestep.planner.prompts`, `acestep.planner.metadata`); how it is learned
is `planner`'s.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from acestep.domain.draft import Metadata
from acestep.domain.song import INSTRUMENTAL
from acestep.planner import codes as audio_codes
from acestep.planner import metadata as block
from acestep.planner import prompts
from acestep.planner.language_model import Message, spelled
from training.nano.captions import caption
from training.nano.composer import Piece

_LANGUAGE = "unknown"  # nobody sings
_SHARES = {"plan": 0.64, "sample": 0.12, "format": 0.12, "understand": 0.12}
_THOUGHT_OF = 0.75  # share of the blocks that say a caption, and of those that say a language


@dataclass(frozen=True, slots=True)
class Dialogue:
    """What was asked, and what is to be answered; `piece` is what it is about."""

    messages: tuple[Message, ...]
    answer: str
    piece: Piece


def dialogue(piece: Piece, seconds: int, codes: Sequence[int], rng: random.Random) -> Dialogue:
    """One dialogue about `piece`, of which `codes` sketch `seconds`."""
    (kind,) = rng.choices(list(_SHARES), weights=list(_SHARES.values()))
    asked = caption(piece, rng)
    facts = _facts(piece, seconds, rng)
    if kind == "plan":
        sketch = spelled(prompts.open_turn(facts) + audio_codes.tokens(codes))
        return Dialogue(prompts.plan(asked, INSTRUMENTAL), sketch, piece)
    turn = prompts.open_turn(_facts(piece, seconds, rng, whole=True))
    draft = spelled((*turn, f"{block.LYRIC_HEADER}{INSTRUMENTAL}"))
    if kind == "sample":
        return Dialogue(prompts.sample(asked, instrumental=rng.random() < 0.7), draft, piece)
    if kind == "format":
        return Dialogue(prompts.format(asked, INSTRUMENTAL), draft, piece)
    return Dialogue(prompts.understand(codes), draft, piece)


def _facts(piece: Piece, seconds: int, rng: random.Random, *, whole: bool = False) -> Metadata:
    return Metadata(
        bpm=piece.bpm,
        caption=caption(piece, rng) if whole or rng.random() < _THOUGHT_OF else None,
        duration=seconds,
        key_scale=piece.key_scale,
        language=_LANGUAGE if whole or rng.random() < _THOUGHT_OF else None,
        time_signature=piece.time_signature,
    )
