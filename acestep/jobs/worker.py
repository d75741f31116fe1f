"""The seam between the queue and whatever makes music.

The engine implements them in this process, scale-out implements the first over other machines, tests fake
all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from acestep.domain.models import ModelInfo, PlannerInfo
from acestep.domain.song import Draft, DraftRequest, Progress, Song, SongRequest

OnProgress = Callable[[Progress], None]
Cancelled = Callable[[], bool]


class Worker(Protocol):
    """Makes the songs of a request. Many calls of `run` may be in flight at once."""

    def models(self) -> tuple[ModelInfo, ...]:
        """The models that can be asked for, the default first; cheap, callable at any time."""
        ...

    def planner(self, name: str = "") -> PlannerInfo:
        """The planner that answers requests for the one of this name ("": its own), as far as it is known.

        Where that one cannot be had it is its own. Cheap, callable at any time.
        """
        ...

    def planners(self) -> tuple[PlannerInfo, ...]:
        """Its own planner first, also where there is none, then others that may be asked for."""
        ...

    async def draft(self, request: DraftRequest, cancelled: Cancelled) -> Draft:
        """Ask the planner for a song on paper.

        Waits while the planner is being loaded. Raises `PlannerUnavailableError` where there is none, and
        otherwise as `run` does.
        """
        ...

    async def wait_ready(self) -> None:
        """Return when a model can serve; until then, and while none can be loaded, the queue holds jobs."""
        ...

    def trouble(self) -> str:
        """What keeps it from working though its models are there, and what to do; "" where nothing does."""
        ...

    async def run(
        self, request: SongRequest, on_progress: OnProgress, cancelled: Cancelled
    ) -> tuple[Song, ...]:
        """Render every song of `request` to a file in the audio store, in the order of its seeds.

        `on_progress` may be called from any thread. Raises `JobCancelledError` soon after `cancelled()`
        turns true, and any other `AceStepError` with a sentence for the user when the job cannot be done.
        """
        ...


class ModelKeeper(Protocol):
    """Keeps the models of a worker in numbered slots: 1 is the default, others run when they are named."""

    def inventory(self) -> tuple[ModelInfo, ...]:
        """The models that can be asked for, and those that only lie on disk."""
        ...

    async def put(self, number: int, name: str | None = None) -> ModelInfo:
        """Load the model `name` (None: the one that is there, again) into slot `number`, and return it.

        It is loaded beside the one that is there, which leaves when its songs end; where there is no room for
        both, that one leaves first. Where loading fails, all is as it was. Raises InvalidFieldError for a
        name that cannot be had, or has no room beside the other slots; ModelUnavailableError where it cannot
        be loaded; StageStuckError where a thread is stuck, or loading does not get on.
        """
        ...

    async def reload(self) -> tuple[str, ...]:
        """Load again what could not be loaded; returns the names of those that are there now.

        Raises StageStuckError as `put` does.
        """
        ...


class PlannerKeeper(Protocol):
    """Keeps the planner of a worker. None as a name: the one that is there, or that the settings mean."""

    async def check(self, name: str | None) -> None:
        """Whether `put` may work. Raises InvalidFieldError for a name that cannot be had, or has no room."""
        ...

    async def put(self, name: str | None) -> PlannerInfo:
        """Have the planner called `name` from now on, and return it once it is there.

        What is being planned ends first; what comes meanwhile waits. Raises as `check` does, and
        ModelUnavailableError where it cannot be loaded, and StageStuckError where a thread is stuck: then the
        one that was there stays, or comes again.
        """
        ...

    async def reload(self) -> tuple[str, ...]:
        """Load it again if it could not be loaded; returns its name then."""
        ...
