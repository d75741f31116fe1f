"""From logits to a token.

Owns guidance, the repetition penalty and the draw. Pure functions over tensors; knows nothing of grammars
or texts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from acestep.planner.language_model import TokenSampling


def guided(cond: Tensor, null: Tensor, scale: float) -> Tensor:
    """Push logits away from what the null prompt makes likely; all in float32."""
    return null + scale * (cond - null)


def penalised(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Make tokens less likely that were seen: positive logits divided, negative ones multiplied.

    The rule of CTRL (Keskar et al. 2019), which transformers and vLLM follow.
    """
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def draw(logits: Tensor, sampling: TokenSampling, chance: float) -> Tensor:
    """The index of one of `[n]` float32 logits, -inf where barred, as a tensor on their device.

    `chance` in (0, 1] decides. Top-k and top-p choose among the logits as they are; the temperature only
    shapes the draw among those.
    """
    if sampling.temperature <= 0:
        return logits.argmax()
    order: Tensor | None = None
    if 0 < sampling.top_k < len(logits):
        logits, order = logits.topk(sampling.top_k)
    elif sampling.top_p < 1:
        logits, order = logits.sort(descending=True, stable=True)
    if sampling.top_p < 1:
        shares = logits.softmax(-1)
        before = shares.cumsum(-1) - shares
        before[0] = -1  # the likeliest stays, whatever top_p
        logits = logits.masked_fill(before >= sampling.top_p, -torch.inf)
    cumulative = (logits / sampling.temperature).softmax(-1).cumsum(-1)
    # The first place that reaches the target has a share of its own: nothing barred is ever drawn.
    target = cumulative[-1] * chance
    index = torch.searchsorted(cumulative, target)
    return index if order is None else order[index]
