"""The seam between the engine and loaded models. Nothing here imports torch at run time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from acestep.domain.analysis import LyricTimes
from acestep.domain.latents import SongLatents, SourceLatents
from acestep.domain.models import ModelInfo, ModelState
from acestep.domain.song import AudioClip, SongPlan
from acestep.planner.language_model import LanguageModel

if TYPE_CHECKING:
    from torch import Tensor

OnStep = Callable[[int, int], None]
OnFraction = Callable[[float], None]
Cancelled = Callable[[], bool]


class Renderer(Protocol):
    """A model in memory. Blocking; the engine calls it from one thread."""

    @property
    def sample_rate(self) -> int: ...

    @property
    def reference_seconds(self) -> float:
        """The length of a reference."""
        ...

    @property
    def takes_batches(self) -> bool:
        """Whether songs are rendered together. One by one, each is to the bit what it is alone."""
        ...

    def encode(self, clip: AudioClip) -> Tensor:
        """The latents `[T, C]` of a clip at `sample_rate`. Deterministic."""
        ...

    def render(
        self,
        plans: Sequence[SongPlan],
        on_step: OnStep,
        cancelled: Cancelled,
        sources: Sequence[SourceLatents] = (),
    ) -> Sequence[SongLatents]:
        """Latents of plans that share their length, sampling and adapters; `sources` has one entry each.

        Raises JobCancelledError soon after `cancelled()`, CheckpointError for an adapter that cannot be used.
        """
        ...

    def decode(self, song: SongLatents, seconds: float, on_fraction: OnFraction) -> AudioClip:
        """The song as audio of exactly `seconds`, normalised unless it keeps parts of its source."""
        ...

    def align_lyrics(
        self, plan: SongPlan, song: SongLatents, sources: SourceLatents
    ) -> Callable[[], LyricTimes]:
        """Run the song's attention to its lyrics; the result computes their times by it, on any thread.

        Raises UntimedLyricsError where the song has no words, or the model's attention heads are not known.
        """
        ...

    def tokenize(self, path: Path) -> tuple[int, ...]:
        """The audio codes of an audio file. Raises UnusableAudioError where it cannot be read."""
        ...

    def low_memory(self) -> Renderer:
        """The same model, that encodes and decodes in smaller pieces with the same results."""
        ...


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Loaded:
    """A model in memory, with complete `info`. Compared by identity, and a key of weak dictionaries."""

    info: ModelInfo
    renderer: Renderer


@dataclass(frozen=True, slots=True)
class OnLoading:
    """Reports on loading, from any thread. `beat` says that it makes progress, and raises to stop it."""

    tell: Callable[[ModelState, str], None]
    beat: Callable[[], None]

    def __call__(self, state: ModelState, detail: str) -> None:
        self.beat()
        self.tell(state, detail)


Load = Callable[[OnLoading], Loaded]
"""Loads a model, on any thread. Raises AceStepError if it cannot."""


@dataclass(frozen=True, slots=True)
class LoadedPlanner:
    """A language model in memory. `detail`: why its backend is another than the one that was set."""

    model: LanguageModel
    backend: str
    detail: str = ""


LoadPlanner = Callable[[OnLoading], LoadedPlanner]
"""Loads a language model, on any thread. Raises AceStepError if it cannot."""
