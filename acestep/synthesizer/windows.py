"""Which part of a song is written anew, counted in frames or samples, and how it joins what is kept."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from acestep.domain.song import Window

_TOLERANCE = 1e-6  # 1.16 s at 25 Hz are 28.999999999999996 frames


@dataclass(frozen=True, slots=True)
class Span:
    """Positions `start..stop` are new; the first `fade_in` and the last `fade_out` of them fade."""

    start: int
    stop: int
    fade_in: int = 0
    fade_out: int = 0

    @classmethod
    def of(cls, window: Window, rate: float, length: int, fade: float) -> Span:
        """The positions that a window touches, at `rate` a second, in a song of `length`.

        At most `fade` of them fade at each edge, and only where there is source on both sides of the edge.
        """
        start = max(0, math.floor(window.start * rate + _TOLERANCE))
        stop = min(length, math.ceil(window.end * rate - _TOLERANCE))
        longest = min(round(fade), (stop - start) // 2)
        heard_after = round(window.source_end * rate) - start
        heard_before = stop - round(window.source_start * rate)
        return cls(
            start=start,
            stop=stop,
            fade_in=max(0, min(longest, heard_after)) if start > 0 else 0,
            fade_out=max(0, min(longest, heard_before)) if stop < length else 0,
        )

    def mask(self, length: int) -> Tensor:
        """1 where the song is new and 0 where it stays, `[length]`."""
        mask = torch.zeros(length, dtype=torch.float32)
        mask[self.start : self.stop] = 1.0
        return mask

    def share(self, length: int) -> Tensor:
        """How much of each position is new, `[length]`: the mask with its edges cross-faded."""
        share = self.mask(length)
        share[self.start : self.start + self.fade_in] = _rise(self.fade_in)
        share[self.stop - self.fade_out : self.stop] = _rise(self.fade_out).flip(0)
        return share


def join(new: Tensor, kept: Tensor, span: Span, dim: int) -> Tensor:
    """`new` inside the span and `kept` outside it, along `dim`; tensors of one shape."""
    shape = [1] * new.ndim
    shape[dim] = -1
    share = span.share(new.shape[dim]).to(new.device).view(shape)
    return torch.where(share == 0.0, kept, torch.lerp(kept, new, share.to(new.dtype)))


def _rise(count: int) -> Tensor:
    return torch.arange(1, count + 1, dtype=torch.float32) / (count + 1)
