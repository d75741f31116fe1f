"""The protocols between the queue and what makes songs. The engine implements them; tests fake them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from acestep.domain.draft import Draft, DraftRequest
from acestep.domain.models import ModelInfo, PlannerInfo
from acestep.domain.song import Progress, Song, SongRequest

OnProgress = Callable[[Progress], None]
Cancelled = Callable[[], bool]


class Worker(Protocol):
    # Many calls may be in flight at once.

    def models(self) -> tuple[ModelInfo, ...]:
        """The models that a request can name, the default first."""
        ...

    def planner(self, name: str = "") -> PlannerInfo:
        """The planner for requests that name this one ("": none); its own if that one is not available."""
        ...

    def planners(self) -> tuple[PlannerInfo, ...]:
        """Its own planner, which may be absent, then the others that a request can name."""
        ...

    async def draft(self, request: DraftRequest, cancelled: Cancelled) -> Draft:
        """Waits for the planner. Raises PlannerUnavailableError, and as `run` does."""
        ...

    async def wait_ready(self) -> None:
        """Return when a model can serve; until then, and while none can be loaded, the queue holds jobs."""
        ...

    def trouble(self) -> str:
        """Why loaded models cannot make songs, and what to do; "" if they can."""
        ...

    async def run(
        self, request: SongRequest, on_progress: OnProgress, cancelled: Cancelled
    ) -> tuple[Song, ...]:
        """Make a song for each seed. Raises JobCancelledError after `cancelled()`, and other AceStepErrors.

        `on_progress` and `cancelled` are called from any thread.
        """
        ...


class ModelKeeper(Protocol):
    # Slots are numbered from 1, the slot of the default model.

    def inventory(self) -> tuple[ModelInfo, ...]:
        """The models of `Worker.models`, and those that are only on disk."""
        ...

    async def put(self, number: int, name: str | None = None) -> ModelInfo:
        """Load a model (None: the same again) into a slot, which keeps its model where that fails.

        Raises InvalidFieldError (unknown, or no room), ModelUnavailableError, StageStuckError.
        """
        ...

    async def reload(self) -> tuple[str, ...]:
        """Load again what failed to load; returns the names that are loaded now."""
        ...


class PlannerKeeper(Protocol):
    # None as a name: the present planner, or else the one that is configured.

    async def check(self, name: str | None) -> None:
        """Raise InvalidFieldError for a name that is unknown or has no room."""
        ...

    async def put(self, name: str | None) -> PlannerInfo:
        """Replace the planner; the old one returns where that fails. Raises as `ModelKeeper.put` does."""
        ...

    async def reload(self) -> tuple[str, ...]:
        """Load it again if it failed to load; returns its name, or nothing."""
        ...
