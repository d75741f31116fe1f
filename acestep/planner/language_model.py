"""The interface of the backends that run the planner's language model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from acestep.planner.lexicon import Lexicon

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class SpecialToken:
    """A token that only the program uses: `<think>`, an audio code."""

    spelling: str


# A string is plain text, even if it spells a special token.
Text = str | tuple[str | SpecialToken, ...]


def spelled(text: Text) -> str:
    parts = (text,) if isinstance(text, str) else text
    return "".join(part if isinstance(part, str) else part.spelling for part in parts)


@dataclass(frozen=True, slots=True)
class Message:
    role: Role
    content: Text


@dataclass(frozen=True, slots=True)
class TokenSampling:
    temperature: float = 0.85  # 0: the likeliest token
    top_k: int = 0  # 0: off
    top_p: float = 0.9  # 1: off
    repetition_penalty: float = 1.0  # 1: off
    guidance_scale: float = 2.5  # s: null + s * (cond - null); 1: off


@dataclass(frozen=True, slots=True)
class Generation:
    """A text to generate. It is the same for the same weights and `seed`, whatever else is in the batch."""

    prompt: tuple[int, ...]  # of `LanguageModel.render`
    grammar: str  # Lark, as llguidance reads it; the text ends where the grammar ends
    sampling: TokenSampling
    seed: int
    max_tokens: int
    null_prompt: tuple[int, ...] | None = None  # the unconditional prompt of guidance; None: no guidance


@dataclass(frozen=True, slots=True)
class Vocabulary:
    # Audio codes have consecutive ids.
    first_code_id: int
    code_count: int
    end_of_turn: str
    lexicon: Lexicon = field(default_factory=Lexicon)


@dataclass(frozen=True, slots=True)
class StepOutput:
    sequence_id: int
    tokens: int  # generated so far
    text: str | None = None  # once it has ended
    error: str | None = None  # why it ended without a text

    @property
    def ended(self) -> bool:
        return self.text is not None or self.error is not None


class LanguageModel(Protocol):
    """A language model in memory, for one thread: `add` generations, and `step` while there is work."""

    @property
    def name(self) -> str: ...  # of its folder

    @property
    def vocabulary(self) -> Vocabulary: ...

    def render(self, messages: Sequence[Message], open_turn: Text = "") -> tuple[int, ...]:
        """The token ids of a conversation by the chat template; the assistant's turn begins `open_turn`."""
        ...

    def spells(self, word: str) -> bool:
        """Whether the tokenizer keeps all of a word."""
        ...

    def add(self, generation: Generation) -> int:
        """Queue a generation, and return its id. Raises PlannerError if it is too long for the model."""
        ...

    def abort(self, sequence_id: int) -> None:
        """Drop a generation; unknown ids are ignored, as it may have ended."""
        ...

    def step(self) -> Sequence[StepOutput]:
        """At least one more token for each running generation; empty if there is none.

        Texts have special tokens spelled out, without the end of turn. If it raises, running generations are
        to be aborted; after out of memory the model is usable, after other errors it is not.
        """
        ...

    def close(self) -> None: ...  # frees all memory; the last call
