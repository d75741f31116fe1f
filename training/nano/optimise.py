"""One step down a loss, the same in every lesson."""

from __future__ import annotations

from torch import Tensor, nn
from torch.optim import Optimizer

_LONGEST = 1.0  # norm of a gradient


def descend(optimizer: Optimizer, loss: Tensor, rate: float) -> float:
    """Take one step at the learning rate `rate`; returns the loss."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(weights, _LONGEST)
    optimizer.step()
    return loss.item()
