"""The seam between the planner and whatever runs its language model.

A backend knows tokens and weights; it knows nothing of captions, metadata or songs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class SpecialToken:
    """A token that only the program may use, by its spelling: `<think>`, an audio code."""

    spelling: str


# Strings are plain text, whatever they spell: words of a user that look like a special token stay words.
Text = str | tuple[str | SpecialToken, ...]


def spelled(text: Text) -> str:
    """The text as people read it, special tokens spelled out."""
    parts = (text,) if isinstance(text, str) else text
    return "".join(part if isinstance(part, str) else part.spelling for part in parts)


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: Text


@dataclass(frozen=True, slots=True)
class TokenSampling:
    """How the next token is drawn from the logits.

    `guidance_scale` s makes `null + s * (cond - null)` of them, 1 turns it off; `top_k` 0 and `top_p` 1
    turn those off; `temperature` 0 takes the likeliest token.
    """

    temperature: float = 0.85
    top_k: int = 0
    top_p: float = 0.9
    repetition_penalty: float = 1.0
    guidance_scale: float = 2.5


@dataclass(frozen=True, slots=True)
class Generation:
    """One text to be generated after `prompt`, in the language of `grammar` (Lark, as llguidance reads it).

    Prompts are token ids, as `LanguageModel.render` gives them: as a string, nobody could tell a special
    token from a user's words that spell one. `null_prompt` is what guidance pushes away from; None: no
    guidance. It ends where the grammar ends, or after `max_tokens`. The same `Generation` on the same
    weights gives the same text, whatever runs beside it: chance comes from `seed` alone.
    """

    prompt: tuple[int, ...]
    grammar: str
    sampling: TokenSampling
    seed: int
    max_tokens: int
    null_prompt: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What a grammar needs to know of a model's tokens: `code_count` audio codes from `first_code_id` on."""

    first_code_id: int
    code_count: int
    end_of_turn: str


@dataclass(frozen=True, slots=True)
class StepOutput:
    """Where one generation stands after a step: `tokens` written so far, and its text once it has ended.

    `error` says why it ended without a text.
    """

    ticket: int
    tokens: int
    text: str | None = None
    error: str | None = None

    @property
    def ended(self) -> bool:
        """Nothing more comes of it."""
        return self.text is not None or self.error is not None


class LanguageModel(Protocol):
    """A language model in memory that writes many texts at once. Blocking; called from one thread.

    The whole program is: `add` what has come, `step` while there is something to do. A text that comes while
    others are being written joins them at the next step.
    """

    @property
    def name(self) -> str:
        """As people know it: the name of its folder."""
        ...

    @property
    def vocabulary(self) -> Vocabulary:
        """Facts about its tokens."""
        ...

    def render(self, messages: Sequence[Message], open_turn: Text = "") -> tuple[int, ...]:
        """The token ids of the conversation, by the model's own chat template.

        It ends where the assistant begins to speak; `open_turn` is what it has said so far. No string in
        it becomes a special token.
        """
        ...

    def add(self, generation: Generation) -> int:
        """Take a generation in and return its ticket; where all places are taken, it waits inside.

        Raises `PlannerError` if its prompts and `max_tokens` exceed what the model can hold.
        """
        ...

    def abort(self, ticket: int) -> None:
        """Forget a generation; an unknown ticket is one that has ended."""
        ...

    def step(self) -> Sequence[StepOutput]:
        """One more token at least for every running generation; empty where there is nothing to do.

        Texts have special tokens spelled out and the end-of-turn token left out. A generation whose
        grammar has not ended after `max_tokens` ends with an error. Whatever it raises, what was running is
        to be aborted; where that was want of memory, it goes on afterwards.
        """
        ...

    def close(self) -> None:
        """Let go of what it holds; nothing is asked of it afterwards."""
        ...
