"""The seam between the queue and whatever makes music.

Owns the `Worker` protocol alone. The engine implements it in this process, scale-out implements it
over other machines, tests fake it. Knows nothing of SQL, HTTP or torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from acestep.domain import Draft, DraftRequest, ModelInfo, PlannerInfo, Progress, Song, SongRequest

OnProgress = Callable[[Progress], None]
Cancelled = Callable[[], bool]


class Worker(Protocol):
    """Makes the songs of a request. Many calls of `run` may be in flight at once."""

    def models(self) -> tuple[ModelInfo, ...]:
        """The models that can be asked for, the default first; cheap, callable at any time."""
        ...

    def planner(self) -> PlannerInfo:
        """The planner, as far as it is known by now; cheap, callable at any time."""
        ...

    async def draft(self, request: DraftRequest, cancelled: Cancelled) -> Draft:
        """Ask the planner for a song on paper.

        Waits while the planner is being loaded. Raises `PlannerUnavailableError` where there is none, and
        otherwise as `run` does.
        """
        ...

    async def wait_ready(self) -> None:
        """Return when jobs can run; until then the queue holds them. Never returns if loading failed."""
        ...

    async def run(
        self, request: SongRequest, on_progress: OnProgress, cancelled: Cancelled
    ) -> tuple[Song, ...]:
        """Render every song of `request` to a file in the audio store, in the order of its seeds.

        `on_progress` may be called from any thread. Raises `JobCancelledError` soon after `cancelled()`
        turns true, and any other `AceStepError` with a sentence for the user when the job cannot be done.
        """
        ...
