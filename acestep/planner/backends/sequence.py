from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from acestep.errors import PlannerError
from acestep.planner.backends.grammars import Constraint, Grammars
from acestep.planner.language_model import Generation, StepOutput

# Token ids to text, special tokens spelled out.
Detokenize = Callable[[Sequence[int]], str]


@dataclass(slots=True, eq=False)
class TextSequence:
    id: int
    generation: Generation
    constraint: Constraint
    generator: torch.Generator
    seen: Tensor | None = None  # [vocabulary], with a repetition penalty
    tokens: list[int] = field(default_factory=list)

    @classmethod
    def begin(cls, sequence_id: int, generation: Generation, grammars: Grammars) -> TextSequence:
        """Raises PlannerError for a grammar that cannot be read."""
        generator = torch.Generator("cpu").manual_seed(generation.seed)
        return cls(sequence_id, generation, grammars.read(generation.grammar), generator)

    def mark_prompt(self, vocabulary: int, device: torch.device) -> None:
        if self.generation.sampling.repetition_penalty != 1:
            self.seen = torch.zeros(vocabulary, dtype=torch.bool, device=device)
            self.seen[list(self.generation.prompt)] = True

    def forced(self) -> list[int]:
        return self.constraint.forced()[: self.generation.max_tokens - len(self.tokens)]

    def append(self, token: int | None, detokenize: Detokenize) -> StepOutput:
        """Append the token that was sampled; None: the grammar allowed none."""
        if token is not None:
            self.constraint.consume(token)
            self.tokens.append(token)
            if self.seen is not None:
                self.seen[token] = True
        count = len(self.tokens)
        if error := self.constraint.error:
            reason = error.partition("\n")[0]  # the parser's whole state follows
            return StepOutput(self.id, count, error=f"The grammar could not be followed: {reason}")
        if self.constraint.ended:
            return StepOutput(self.id, count, text=detokenize(self.tokens))
        if token is None:
            return StepOutput(self.id, count, error="The grammar allows no token here")
        if count >= self.generation.max_tokens:
            return StepOutput(self.id, count, error=f"The text has not ended after {count} tokens")
        return StepOutput(self.id, count)


def prompts_of(generation: Generation, length: int, name: str) -> list[tuple[int, ...]]:
    """The prompt, and with guidance the null prompt.

    Raises PlannerError if one is empty, or exceeds with the answer the `length` that model `name` holds.
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
