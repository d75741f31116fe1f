"""The seam between the engine and loaded models.

Owns the `Renderer` protocol: what the engine needs of a model once its weights are in memory. Latents
pass through the engine unopened, so nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from acestep.domain import AudioClip, ModelInfo, ModelState, SongPlan

OnStep = Callable[[int, int], None]
OnFraction = Callable[[float], None]
Cancelled = Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Rendering:
    """One song between synthesizer and codec: its latents `[1, T, C]`, and what the client must hear."""

    latents: Any
    warnings: tuple[str, ...] = ()


class Renderer(Protocol):
    """A model in memory. Blocking; the engine calls it from one thread."""

    def render(self, plans: Sequence[SongPlan], on_step: OnStep, cancelled: Cancelled) -> Sequence[Rendering]:
        """Latents of each plan. All plans share their length and their sampling.

        Raises JobCancelledError soon after `cancelled()` turns true.
        """
        ...

    def decode(self, rendering: Rendering, seconds: float, on_fraction: OnFraction) -> AudioClip:
        """The sound of one song, exactly `seconds` long, normalised."""
        ...

    def listen(self, path: Path) -> tuple[int, ...]:
        """The audio codes of a file, whatever its format. Raises UnusableAudioError where it is none."""
        ...


@dataclass(frozen=True, slots=True)
class Loaded:
    """What loading gives: the model's facts, now that all of them are known, and the model."""

    info: ModelInfo
    renderer: Renderer


OnLoading = Callable[[ModelState, str], None]
Load = Callable[[OnLoading], Loaded]
"""Brings a model into memory, from any thread; says how far it is. Raises AceStepError if it cannot."""
