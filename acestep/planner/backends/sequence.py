"""A text on its way, whatever computes the logits: how far it is, and how it ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from acestep.errors import PlannerError
from acestep.planner.backends.grammars import Constraint, Grammars
from acestep.planner.language_model import Generation, StepOutput

Spell = Callable[[Sequence[int]], str]
"""Token ids as text, special tokens spelled out."""


@dataclass(slots=True, eq=False)
class TextSequence:
    """A generation that is being written. `seen` is `[vocabulary]` and there with a repetition penalty."""

    ticket: int
    generation: Generation
    constraint: Constraint
    chance: torch.Generator
    seen: Tensor | None = None
    tokens: list[int] = field(default_factory=list)

    @classmethod
    def begin(cls, ticket: int, generation: Generation, grammars: Grammars) -> TextSequence:
        """Nothing is written yet. Raises PlannerError for a grammar that cannot be read."""
        chance = torch.Generator("cpu").manual_seed(generation.seed)
        return cls(ticket, generation, grammars.read(generation.grammar), chance)

    def remember(self, size: int, device: torch.device) -> None:
        """Note what the prompt says, if repetition is to cost; `size` is that of the vocabulary."""
        if self.generation.sampling.repetition_penalty != 1:
            self.seen = torch.zeros(size, dtype=torch.bool, device=device)
            self.seen[list(self.generation.prompt)] = True

    def forced(self) -> list[int]:
        """The tokens that must come next, as far as there is room for them."""
        return self.constraint.forced()[: self.generation.max_tokens - len(self.tokens)]

    def take(self, token: int | None, spell: Spell) -> StepOutput:
        """Go on with the token that was chosen; None where the grammar allowed none."""
        if token is not None:
            self.constraint.advance(token)
            self.tokens.append(token)
            if self.seen is not None:
                self.seen[token] = True
        count = len(self.tokens)
        if error := self.constraint.error:
            reason = error.partition("\n")[0]  # the parser's whole state follows
            return StepOutput(self.ticket, count, error=f"The grammar could not be followed: {reason}")
        if self.constraint.ended:
            return StepOutput(self.ticket, count, text=spell(self.tokens))
        if token is None:
            return StepOutput(self.ticket, count, error="The grammar allows no token here")
        if count >= self.generation.max_tokens:
            return StepOutput(self.ticket, count, error=f"The text has not ended after {count} tokens")
        return StepOutput(self.ticket, count)


def prompts_of(generation: Generation, length: int, name: str) -> list[tuple[int, ...]]:
    """The prompt, and with guidance the null prompt.

    Raises PlannerError where one is empty, or exceeds, with the answer, the `length` that model `name` holds.
    """
    prompts = [generation.prompt]
    if generation.null_prompt is not None and generation.sampling.guidance_scale != 1:
        prompts.append(generation.null_prompt)
    if not all(prompts):
        raise PlannerError("A prompt is empty.")
    longest = max(map(len, prompts))
    if longest + generation.max_tokens > length:
        raise PlannerError(
            f"A prompt of {longest} tokens and an answer of up to {generation.max_tokens} exceed the"
            f" {length} tokens that {name} holds here. Shorten the caption or the lyrics, or ask for a"
            " shorter song."
        )
    return prompts
