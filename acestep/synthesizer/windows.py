"""The part of a song that is generated, in frames or samples."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from acestep.domain.song import Window

_TOLERANCE = 1e-6  # 1.16 s at 25 Hz are 28.999999999999996 frames


@dataclass(frozen=True, slots=True)
class Span:
    """Positions `start..stop` are generated; the first `fade_in` and the last `fade_out` of them fade."""

    start: int
    stop: int
    fade_in: int = 0
    fade_out: int = 0

    @classmethod
    def of(cls, window: Window, rate: float, length: int, fade: float) -> Span:
        """The positions that a window touches, at `rate` a second, in a song of `length` positions.

        At most `fade` of them fade at each edge, where the source continues into the window.
        """
        start = max(0, math.floor(window.start * rate + _TOLERANCE))
        stop = min(length, math.ceil(window.end * rate - _TOLERANCE))
        longest = min(round(fade), (stop - start) // 2)
        source_after_start = round(window.source_end * rate) - start
        source_before_stop = stop - round(window.source_start * rate)
        return cls(
            start=start,
            stop=stop,
            fade_in=max(0, min(longest, source_after_start)) if start > 0 else 0,
            fade_out=max(0, min(longest, source_before_stop)) if stop < length else 0,
        )

    def mask(self, length: int) -> Tensor:
        """1 where the song is generated, else 0, `[length]`."""
        mask = torch.zeros(length, dtype=torch.float32)
        mask[self.start : self.stop] = 1.0
        return mask

    def weights(self, length: int) -> Tensor:
        """The mask with its edges cross-faded, `[length]`."""
        weights = self.mask(length)
        weights[self.start : self.start + self.fade_in] = _ramp(self.fade_in)
        weights[self.stop - self.fade_out : self.stop] = _ramp(self.fade_out).flip(0)
        return weights


def join(new: Tensor, kept: Tensor, span: Span, dim: int) -> Tensor:
    """`new` inside the span and `kept` outside it, along `dim`; tensors of one shape."""
    shape = [1] * new.ndim
    shape[dim] = -1
    weights = span.weights(new.shape[dim]).to(new.device).view(shape)
    return torch.where(weights == 0.0, kept, torch.lerp(kept, new, weights.to(new.dtype)))


def keep_around(new: Tensor, kept: Tensor, span: Span) -> None:
    """As `join` along the last dimension, into `new` itself. Zeros follow a `kept` that is shorter."""
    short, length = kept.shape[-1], new.shape[-1]
    for start, stop in ((0, span.start), (span.stop, length)):
        end = max(start, min(stop, short))
        new[..., start:end] = kept[..., start:end]
        new[..., end:stop] = 0.0
    fades = ((span.start, _ramp(span.fade_in)), (span.stop - span.fade_out, _ramp(span.fade_out).flip(0)))
    for start, weights in fades:
        edge = new[..., start : start + len(weights)]
        old = kept[..., start : start + len(weights)]
        edge.copy_(torch.lerp(functional.pad(old, (0, len(weights) - old.shape[-1])), edge, weights))


def _ramp(count: int) -> Tensor:
    return torch.arange(1, count + 1, dtype=torch.float32) / (count + 1)
