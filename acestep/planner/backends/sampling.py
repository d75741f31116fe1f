from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from acestep.planner.backends.grammars import Allowed
from acestep.planner.backends.sequence import TextSequence
from acestep.planner.language_model import TokenSampling

Index = Callable[[Allowed], slice | Tensor]  # the allowed tokens, as an index on the device of the logits


def guided(cond: Tensor, null: Tensor, scale: float) -> Tensor:
    return torch.add(null, cond - null, alpha=scale)


def penalised(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """The repetition penalty of CTRL (Keskar et al. 2019), as transformers and vLLM have it."""
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def draw(logits: Tensor, sampling: TokenSampling, uniform: float | Tensor) -> Tensor:
    """The index of one of `[..., n]` float32 logits, -inf where masked; `[...]` on their device.

    `uniform` in (0, 1] is one number, or `[..., 1]`. Top-k and top-p come before the temperature. Logits
    equal to the last one that is kept are kept as well.
    """
    if sampling.temperature <= 0:
        return logits.argmax(-1)
    if 0 < sampling.top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(sampling.top_k).values[..., -1:], -torch.inf)
    if sampling.top_p < 1:
        logits = logits.masked_fill(logits < _least_of_top_p(logits, sampling.top_p), -torch.inf)
    cumulative = _cumsum((logits / sampling.temperature).softmax(-1))
    # The first sum that reaches a target above 0 has a share of its own: no masked token is ever drawn.
    return torch.searchsorted(cumulative, cumulative[..., -1:] * uniform).squeeze(-1)


def _least_of_top_p(logits: Tensor, top_p: float) -> Tensor:
    # The least of the likeliest logits that together have `top_p` of the probability; `[..., 1]`.
    if logits.device.type == "cpu":  # several times faster than torch, which sorts indices along
        ordered = torch.from_numpy(np.sort(logits.numpy()))
    else:
        ordered = logits.sort().values
    # Ascending: a logit is dropped if all up to it together have at most 1 - top_p.
    cumulative = _cumsum(ordered.softmax(-1))
    rest = torch.full_like(cumulative[..., :1], 1 - top_p)
    first = torch.searchsorted(cumulative, rest, right=True).clamp_(max=logits.shape[-1] - 1)
    return ordered.gather(-1, first)


def _cumsum(shares: Tensor) -> Tensor:
    # A GPU adds in blocks, in no fixed order for a single row: in float32 the sum over masked tokens may grow
    # by rounding, and one of those be drawn.
    return shares.cumsum(-1, dtype=torch.float64 if shares.device.type == "cuda" else shares.dtype)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    # Without waiting for the work that the GPU has queued. CUDA has read pageable memory on return;
    # of other devices that is not known.
    return tensor.to(device, non_blocking=device.type == "cuda")


@dataclass(frozen=True, slots=True, eq=False)
class TokenChoice:
    """`logits` are `[prompts, allowed rows]`, float32; with guidance there are two prompts."""

    sequence: TextSequence
    allowed: Allowed
    logits: Tensor

    @property
    def group_key(self) -> Hashable:
        """Choices with the same key are drawn together."""
        rows = self.allowed.rows
        if isinstance(rows, slice) and self.allowed.barred is None and self.sequence.seen is None:
            return rows.start, rows.stop, len(self.logits), self.sequence.generation.sampling
        return id(self)


def next_tokens(
    sequences: Sequence[TextSequence],
    allowed: Sequence[Allowed | None],
    logits_of: Callable[[Sequence[tuple[int, Allowed]]], Sequence[Tensor]],
    index: Index,
) -> list[int | None]:
    """The next token of each text; None: its grammar allows none.

    `logits_of` is called once, with the index and the allowed tokens of each text that has a choice.
    """
    tokens = [each.forced if each else None for each in allowed]
    asked = [(number, each) for number, each in enumerate(allowed) if each and each.forced is None]
    choices = [
        TokenChoice(sequences[number], each, logits)
        for (number, each), logits in zip(asked, logits_of(asked), strict=True)
    ]
    for (number, _), token in zip(asked, choose(choices, index), strict=True):
        tokens[number] = token
    return tokens


def choose(choices: Sequence[TokenChoice], index: Index) -> list[int]:
    groups: dict[Hashable, list[int]] = {}
    for number, choice in enumerate(choices):
        groups.setdefault(choice.group_key, []).append(number)
    drawn = [_draw([choices[number] for number in numbers], index) for numbers in groups.values()]
    # One wait for the device, not one a text.
    found: list[int] = torch.cat(drawn).tolist() if drawn else []
    tokens = [0] * len(choices)
    grouped = (number for numbers in groups.values() for number in numbers)
    for number, row in zip(grouped, found, strict=True):
        tokens[number] = choices[number].allowed.token(row)
    return tokens


def _draw(choices: Sequence[TokenChoice], index: Index) -> Tensor:
    # The index of each token among the allowed ones, `[choices]`.
    first = choices[0]
    sampling, seen = first.sequence.generation.sampling, first.sequence.seen
    logits = torch.stack([choice.logits for choice in choices], dim=1)  # [prompts, choices, rows]
    scores = guided(logits[0], logits[1], sampling.guidance_scale) if len(logits) > 1 else logits[0]
    if first.allowed.barred is not None:
        barred = torch.from_numpy(first.allowed.barred)
        scores = scores.masked_fill(to_device(barred, scores.device), -torch.inf)
    if seen is not None:
        scores = penalised(scores, seen[index(first.allowed)], sampling.repetition_penalty)
    # Random numbers come from the CPU, so that a seed means the same on every device.
    uniform = torch.stack([_uniform(choice.sequence.generator) for choice in choices])
    return draw(scores, sampling, to_device(uniform, scores.device))


def _uniform(generator: torch.Generator) -> Tensor:
    # In (0, 1]. The dtype is given, as the process's default may be a coarser one.
    return 1 - torch.rand(1, generator=generator, dtype=torch.float32)
