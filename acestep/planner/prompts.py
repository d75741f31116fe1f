"""The prompts, exactly as in the training data of the published weights."""

from __future__ import annotations

from collections.abc import Sequence

from acestep.domain.draft import Metadata
from acestep.domain.song import INSTRUMENTAL
from acestep.planner import codes as audio_codes
from acestep.planner import metadata as block
from acestep.planner.language_model import Message, SpecialToken, Text

NOTHING = "NO USER INPUT"  # in place of an empty text

_PLAN = "Generate audio semantic tokens based on the given conditions:"
_SAMPLE = "Expand the user's input into a more detailed and specific musical description:"
_FORMAT = "Format the user's input into a more detailed and specific musical description:"
_UNDERSTAND = "Understand the given musical conditions and describe the audio semantics accordingly:"


def plan(caption: str, lyrics: str) -> tuple[Message, ...]:
    return _messages(_PLAN, f"# Caption\n{caption}\n\n# Lyric\n{_lyrics(lyrics)}\n")


def plan_null(lyrics: str, negative_prompt: str) -> tuple[Message, ...]:
    """The null prompt for the metadata: without a caption, or with the negative prompt as caption."""
    if is_negative(negative_prompt):
        return plan(negative_prompt, lyrics)
    return _messages(_PLAN, f"# Lyric\n{_lyrics(lyrics)}\n")


def codes_null(caption: str, lyrics: str, negative_prompt: str) -> tuple[Message, ...]:
    """The null prompt for the audio codes; the assistant's turn begins with an empty block."""
    return plan(negative_prompt if is_negative(negative_prompt) else caption, lyrics)


def open_turn(metadata: Metadata) -> tuple[str | SpecialToken, ...]:
    return SpecialToken(block.BEGIN), block.inside(metadata), SpecialToken(block.END), "\n\n"


def closed_turn(metadata: Metadata, end_of_turn: str) -> tuple[str | SpecialToken, ...]:
    """A finished turn, as in the original."""
    return *open_turn(metadata), SpecialToken(end_of_turn), "\n"


def sample(query: str, instrumental: bool) -> tuple[Message, ...]:
    return _messages(_SAMPLE, f"{query.strip() or NOTHING}\n\ninstrumental: {str(instrumental).lower()}")


def format(caption: str, lyrics: str) -> tuple[Message, ...]:  # noqa: A001 - the word of the API
    written = caption if caption.strip() else NOTHING
    return _messages(_FORMAT, f"# Caption\n{written}\n\n# Lyric\n{_lyrics(lyrics)}")


def understand(codes: Sequence[int]) -> tuple[Message, ...]:
    return _messages(_UNDERSTAND, audio_codes.tokens(codes))


def is_negative(negative_prompt: str) -> bool:
    return negative_prompt.strip() not in ("", NOTHING)


def _messages(instruction: str, content: Text) -> tuple[Message, ...]:
    return Message("system", f"# Instruction\n{instruction}\n\n"), Message("user", content)


def _lyrics(lyrics: str) -> str:
    return lyrics if lyrics.strip() else INSTRUMENTAL
