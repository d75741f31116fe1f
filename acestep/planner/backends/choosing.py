"""The next tokens of many texts, from what their grammars allow and what the model thinks of that.

Owns which texts are drawn for together: those that choose among the same tokens in the same way share each
operation, in which every text has a row of its own. Knows nothing of caches or layers.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from acestep.planner.backends.carrying import carried
from acestep.planner.backends.constraints import Allowed
from acestep.planner.backends.sampling import draw, guided, penalised
from acestep.planner.backends.writing import Writing

Index = Callable[[Allowed], slice | Tensor]
"""What is allowed, as tensors on the device of the logits take it."""


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """`logits` `[prompts, rows of allowed]`, float32: after the prompt, with guidance the null prompt too."""

    writing: Writing
    allowed: Allowed
    logits: Tensor

    @property
    def company(self) -> Hashable:
        """Choices for which this is the same are drawn together."""
        rows = self.allowed.rows
        if isinstance(rows, slice) and self.allowed.barred is None and self.writing.seen is None:
            return rows.start, rows.stop, len(self.logits), self.writing.generation.sampling
        return id(self)


def next_tokens(
    writings: Sequence[Writing],
    allowed: Sequence[Allowed | None],
    logits_of: Callable[[Sequence[tuple[int, Allowed]]], Sequence[Tensor]],
    index: Index,
) -> list[int | None]:
    """The next token of each text; None where its grammar allows none.

    `logits_of` is asked once, for those that have a choice: their places in `writings`, and what is allowed.
    """
    tokens = [each.forced if each else None for each in allowed]
    asked = [(place, each) for place, each in enumerate(allowed) if each and each.forced is None]
    choices = [
        Choice(writings[place], each, logits)
        for (place, each), logits in zip(asked, logits_of(asked), strict=True)
    ]
    for (place, _), token in zip(asked, choose(choices, index), strict=True):
        tokens[place] = token
    return tokens


def choose(choices: Sequence[Choice], index: Index) -> list[int]:
    """The next token of each."""
    together: dict[Hashable, list[int]] = {}
    for number, choice in enumerate(choices):
        together.setdefault(choice.company, []).append(number)
    drawn = [_draw([choices[number] for number in numbers], index) for numbers in together.values()]
    # One wait for the device, not one a text.
    found: list[int] = torch.cat(drawn).tolist() if drawn else []
    tokens = [0] * len(choices)
    for number, place in zip(
        (number for numbers in together.values() for number in numbers), found, strict=True
    ):
        tokens[number] = choices[number].allowed.token(place)
    return tokens


def _draw(choices: Sequence[Choice], index: Index) -> Tensor:
    """The place, within what is allowed, of each token; `[choices]`."""
    first = choices[0]
    sampling, seen = first.writing.generation.sampling, first.writing.seen
    logits = torch.stack([choice.logits for choice in choices], dim=1)  # [prompts, choices, rows]
    scores = guided(logits[0], logits[1], sampling.guidance_scale) if len(logits) > 1 else logits[0]
    if first.allowed.barred is not None:
        barred = torch.from_numpy(first.allowed.barred)
        scores = scores.masked_fill(carried(barred, scores.device), -torch.inf)
    if seen is not None:
        scores = penalised(scores, seen[index(first.allowed)], sampling.repetition_penalty)
    # Drawn on the CPU, whatever the device; in (0, 1].
    chances = torch.stack([_chance(choice.writing.chance) for choice in choices])
    return draw(scores, sampling, carried(chances, scores.device))


def _chance(stream: torch.Generator) -> Tensor:
    # The default dtype is the process's, and may be a coarse one.
    return 1 - torch.rand(1, generator=stream, dtype=torch.float32)
