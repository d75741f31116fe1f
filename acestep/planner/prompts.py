"""What the language model is told, exactly as the published weights were trained on it."""

from __future__ import annotations

from collections.abc import Sequence

from acestep.domain.song import INSTRUMENTAL, Metadata
from acestep.planner import codes as audio_codes
from acestep.planner import metadata as block
from acestep.planner.language_model import Message, SpecialToken, Text

NOTHING = "NO USER INPUT"  # stands for a text that the user left out

_PLAN = "Generate audio semantic tokens based on the given conditions:"
_SAMPLE = "Expand the user's input into a more detailed and specific musical description:"
_FORMAT = "Format the user's input into a more detailed and specific musical description:"
_UNDERSTAND = "Understand the given musical conditions and describe the audio semantics accordingly:"


def plan(caption: str, lyrics: str) -> tuple[Message, ...]:
    """Both phases of planning a song: the facts, and then the codes."""
    return _lock(_PLAN, f"# Caption\n{caption}\n\n# Lyric\n{_sung(lyrics)}\n")


def plan_null(lyrics: str, negative_prompt: str) -> tuple[Message, ...]:
    """What guidance pushes the facts away from: the same without a caption, or with a negative one."""
    if is_negative(negative_prompt):
        return plan(negative_prompt, lyrics)
    return _lock(_PLAN, f"# Lyric\n{_sung(lyrics)}\n")


def codes_null(caption: str, lyrics: str, negative_prompt: str) -> tuple[Message, ...]:
    """What guidance pushes the codes away from; the assistant's turn begins with an empty block there."""
    return plan(negative_prompt if is_negative(negative_prompt) else caption, lyrics)


def open_turn(metadata: Metadata) -> tuple[str | SpecialToken, ...]:
    """What the assistant has said before the codes: the block, and it goes on."""
    return SpecialToken(block.BEGIN), block.inside(metadata), SpecialToken(block.END), "\n\n"


def closed_turn(metadata: Metadata, end_of_turn: str) -> tuple[str | SpecialToken, ...]:
    """The same as a finished turn, after which the codes follow, as the original runs it."""
    return *open_turn(metadata), SpecialToken(end_of_turn), "\n"


def sample(query: str, instrumental: bool) -> tuple[Message, ...]:
    """A song from one sentence."""
    return _lock(_SAMPLE, f"{query.strip() or NOTHING}\n\ninstrumental: {str(instrumental).lower()}")


def format(caption: str, lyrics: str) -> tuple[Message, ...]:  # noqa: A001 - the word of the API
    """A better caption and better lyrics."""
    written = caption if caption.strip() else NOTHING
    return _lock(_FORMAT, f"# Caption\n{written}\n\n# Lyric\n{_sung(lyrics)}")


def understand(codes: Sequence[int]) -> tuple[Message, ...]:
    """The song that audio codes sketch, in words."""
    return _lock(_UNDERSTAND, audio_codes.tokens(codes))


def is_negative(negative_prompt: str) -> bool:
    """Whether it says anything."""
    return negative_prompt.strip() not in ("", NOTHING)


def _lock(instruction: str, content: Text) -> tuple[Message, ...]:
    return Message("system", f"# Instruction\n{instruction}\n\n"), Message("user", content)


def _sung(lyrics: str) -> str:
    return lyrics if lyrics.strip() else INSTRUMENTAL
