"""From the CPU to where the model is, without waiting for what the GPU is still at.

Owns that one copy, of which every token needs a few. Knows nothing of what is carried.
"""

from __future__ import annotations

import torch
from torch import Tensor


def carried(tensor: Tensor, device: torch.device) -> Tensor:
    """A CPU's `tensor` on `device`.

    By itself such a copy waits until the GPU has done all that it was asked for; only then can the CPU ask
    for what follows. CUDA has read ordinary memory when it returns; of others that is not known.
    """
    return tensor.to(device, non_blocking=device.type == "cuda")
