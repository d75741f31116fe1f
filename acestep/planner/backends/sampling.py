"""From logits to a token.

Pure functions over tensors; knows nothing of grammars or texts.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from acestep.planner.backends.grammars import Allowed
from acestep.planner.backends.sequence import TextSequence
from acestep.planner.language_model import TokenSampling


def guided(cond: Tensor, null: Tensor, scale: float) -> Tensor:
    """Push logits away from what the null prompt makes likely; all in float32."""
    return torch.add(null, cond - null, alpha=scale)


def penalised(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Make tokens less likely that were seen: positive logits divided, negative ones multiplied.

    The rule of CTRL (Keskar et al. 2019), which transformers and vLLM follow.
    """
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def draw(logits: Tensor, sampling: TokenSampling, chance: float | Tensor) -> Tensor:
    """The index of one of `[..., n]` float32 logits, -inf where barred; `[...]` on their device.

    `chance` in (0, 1], one or `[..., 1]`, decides. Top-k and top-p choose among the logits as they are; the
    temperature only shapes the draw among those. Logits equal to the last that is kept are kept, too.
    """
    if sampling.temperature <= 0:
        return logits.argmax(-1)
    if 0 < sampling.top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(sampling.top_k).values[..., -1:], -torch.inf)
    if sampling.top_p < 1:
        logits = logits.masked_fill(logits < _nucleus(logits, sampling.top_p), -torch.inf)
    cumulative = _sums((logits / sampling.temperature).softmax(-1))
    # The first place that reaches a target above 0 has a share of its own: nothing barred is ever drawn.
    return torch.searchsorted(cumulative, cumulative[..., -1:] * chance).squeeze(-1)


def _nucleus(logits: Tensor, top_p: float) -> Tensor:
    """The least of the likeliest logits that together have `top_p` of the probability; `[..., 1]`."""
    if logits.device.type == "cpu":  # several times faster than torch, which sorts indices along
        ordered = torch.from_numpy(np.sort(logits.numpy()))
    else:
        ordered = logits.sort().values
    # From below: all are kept above which there is less than top_p, and so more than the rest up to them.
    cumulative = _sums(ordered.softmax(-1))
    rest = torch.full_like(cumulative[..., :1], 1 - top_p)
    first = torch.searchsorted(cumulative, rest, right=True).clamp_(max=logits.shape[-1] - 1)
    return ordered.gather(-1, first)


def _sums(shares: Tensor) -> Tensor:
    """Running sums along the last dimension.

    A GPU adds in parts, in no fixed order where there is one row: in float32 a sum over nothing but barred
    places may come out larger than the one before, and one of those be drawn.
    """
    return shares.cumsum(-1, dtype=torch.float64 if shares.device.type == "cuda" else shares.dtype)


def carried(tensor: Tensor, device: torch.device) -> Tensor:
    """A CPU's `tensor` on `device`.

    By itself such a copy waits until the GPU has done all that it was asked for; only then can the CPU ask
    for what follows. CUDA has read ordinary memory when it returns; of others that is not known.
    """
    return tensor.to(device, non_blocking=device.type == "cuda")


Index = Callable[[Allowed], slice | Tensor]

"""What is allowed, as tensors on the device of the logits take it."""


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """`logits` `[prompts, rows of allowed]`, float32: after the prompt, with guidance the null prompt too."""

    writing: TextSequence
    allowed: Allowed
    logits: Tensor

    @property
    def group_key(self) -> Hashable:
        """Choices for which this is the same are drawn together."""
        rows = self.allowed.rows
        if isinstance(rows, slice) and self.allowed.barred is None and self.writing.seen is None:
            return rows.start, rows.stop, len(self.logits), self.writing.generation.sampling
        return id(self)


def next_tokens(
    writings: Sequence[TextSequence],
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
        together.setdefault(choice.group_key, []).append(number)
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
