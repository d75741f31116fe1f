"""Latents between audio inputs, synthesizer and codec. The engine passes them on unopened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from acestep.domain.song import Window

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class SourceLatents:
    """Audio that a song is made from: `source` is what its task works on, `reference` gives the timbre.

    `[T, C]` each, of any length; None: the request has no such audio.
    """

    source: Tensor | None = None
    reference: Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class SongLatents:
    """One rendered song: `latents` `[1, T, C]`, and sentences for the client.

    Outside `window` the song is its source, whose latents `[1, T, C]` are `kept`.
    """

    latents: Tensor
    warnings: tuple[str, ...] = ()
    window: Window | None = None
    kept: Tensor | None = None
