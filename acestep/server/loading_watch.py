"""Says which models are loading and for how long, in the log and to the jobs that wait for them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator

from acestep.domain.models import ModelInfo, PlannerInfo

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
LOG_SECONDS = 5.0


class LoadingWatch:
    def __init__(
        self,
        models: Callable[[], tuple[ModelInfo, ...]],
        planners: Callable[[], tuple[PlannerInfo, ...]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # Of each model (None: the default), for jobs that name it: that it is loading; "" where it is not.
        self.notes: dict[str | None, str] = {}
        self._models = models
        self._planners = planners
        self._clock = clock
        # Of what is loading, such as "model acestep-nano": when that was first seen and last logged.
        self._since: dict[str, float] = {}
        self._said: dict[str, float] = {}

    async def run(self) -> None:
        while True:
            for sentence in self.look():
                log.info("%s", sentence)
            await asyncio.sleep(LOOK_SECONDS)

    def look(self) -> list[str]:
        """Bring `notes` up to date, and return a sentence for what has been loading for LOG_SECONDS more."""
        now, models = self._clock(), self._models()
        loading = dict(self._loading(models))
        self._since = {what: self._since.get(what, now) for what in loading}
        self._said = {what: self._said.get(what, now) for what in loading}
        texts = {what: _sentence(what, info, now - self._since[what]) for what, info in loading.items()}
        self.notes.clear()  # read by others at any time, but on this event loop
        self.notes |= {info.name: texts.get(f"model {info.name}", "") for info in models}
        self.notes[None] = next(iter(self.notes.values()), "")
        due = [what for what in loading if now - self._said[what] >= LOG_SECONDS]
        self._said |= dict.fromkeys(due, now)
        return [texts[what] for what in due]

    def _loading(self, models: tuple[ModelInfo, ...]) -> Iterator[tuple[str, ModelInfo | PlannerInfo]]:
        for kind, infos in (("model", models), ("planner", self._planners())):
            for info in infos:
                if info.state in ("loading", "downloading"):
                    yield f"{kind} {info.name}", info


def _sentence(what: str, info: ModelInfo | PlannerInfo, seconds: float) -> str:
    done = f": {info.detail}" if info.state == "downloading" and info.detail else ""
    return f"The {what} is {info.state}{done}, {seconds:.0f} s so far"
