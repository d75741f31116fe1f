"""From logits to a token.

Owns guidance, the repetition penalty and the draw. Pure functions over tensors; knows nothing of grammars
or texts.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

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
