"""Latents between audio inputs, synthesizer and codec."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from acestep.domain.song import PEAK_DB, AudioClip, Window

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class SourceLatents:
    """The audio of a request, `[T, C]` each, of any length; None: it has none."""

    source: Tensor | None = None  # the task works on it
    reference: Tensor | None = None  # it gives the timbre
    clip: AudioClip | None = None  # the sound of `source`, where the song keeps some of it


@dataclass(frozen=True, slots=True, eq=False)
class SongLatents:
    """One rendered song."""

    latents: Tensor  # [1, T, C]
    warnings: tuple[str, ...] = ()  # sentences for the client
    window: Window | None = None  # outside of it the song is its source
    kept: AudioClip | None = None  # the sound of that source
    peak_db: float | None = PEAK_DB  # as in OutputOptions; without effect beside `kept`
