"""The seam between the engine and loaded models.

Latents pass through the engine unopened, so nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from acestep.domain.analysis import LyricTimes
from acestep.domain.latents import SongLatents, SourceLatents
from acestep.domain.models import ModelInfo, ModelState
from acestep.domain.song import AudioClip, SongPlan

if TYPE_CHECKING:
    from torch import Tensor

OnStep = Callable[[int, int], None]
OnFraction = Callable[[float], None]
Cancelled = Callable[[], bool]


class Renderer(Protocol):
    """A model in memory. Blocking; the engine calls it from one thread."""

    @property
    def sample_rate(self) -> int:
        """Hz, of what it takes and what it gives."""
        ...

    @property
    def reference_seconds(self) -> float:
        """How much of a reference it hears."""
        ...

    def encode(self, clip: AudioClip) -> Tensor:
        """The latents `[T, C]` of sound at `sample_rate`; the same sound always gives the same ones."""
        ...

    def render(
        self,
        plans: Sequence[SongPlan],
        on_step: OnStep,
        cancelled: Cancelled,
        sources: Sequence[SourceLatents] = (),
    ) -> Sequence[SongLatents]:
        """Latents of each plan; `sources` has one entry each.

        All plans share their length, their sampling and their adapters. Raises JobCancelledError soon after
        `cancelled()` turns true, CheckpointError for an adapter that cannot be used.
        """
        ...

    def decode(self, song: SongLatents, seconds: float, on_fraction: OnFraction) -> AudioClip:
        """The sound of one song, exactly `seconds` long; normalised, unless some of it is its source's."""
        ...

    def align_lyrics(
        self, plan: SongPlan, song: SongLatents, sources: SourceLatents
    ) -> Callable[[], LyricTimes]:
        """Look at how a song attends to its lyrics; what this returns then works out when they are sung.

        That may take seconds, needs no model, and may be called from any thread. Raises UntimedLyricsError
        where the song has no words, or the model is not known to tell.
        """
        ...

    def tokenize(self, path: Path) -> tuple[int, ...]:
        """The audio codes of a file, whatever its format. Raises UnusableAudioError where it is none."""
        ...

    def low_memory(self) -> Renderer:
        """The same model at work with less memory where it can be: sound in smaller pieces. As good."""
        ...


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Loaded:
    """What loading gives: the model's facts, now that all of them are known, and the model.

    Each loading gives another, which is itself alone: others may remember something of it as long as it is.
    """

    info: ModelInfo
    renderer: Renderer


@dataclass(frozen=True, slots=True)
class OnLoading:
    """Hears of a model on its way, from any thread: how far it is, and by `beat` that it gets on at all."""

    tell: Callable[[ModelState, str], None]
    beat: Callable[[], None]

    def __call__(self, state: ModelState, detail: str) -> None:
        """It is so far now. Raises as `beat` does."""
        self.beat()
        self.tell(state, detail)


Load = Callable[[OnLoading], Loaded]
"""Brings a model into memory, from any thread; says how far it is. Raises AceStepError if it cannot."""
