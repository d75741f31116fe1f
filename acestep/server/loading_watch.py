"""Says which models are loading and for how long, in the log and to the jobs that wait for them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

from acestep.domain.models import ModelInfo, PlannerInfo

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
LOG_SECONDS = 5.0


class Models(Protocol):
    def models(self) -> tuple[ModelInfo, ...]: ...
    def planners(self) -> tuple[PlannerInfo, ...]: ...


class _Loading(NamedTuple):
    # What is loaded: "model" or "planner", and its name.
    kind: str
    name: str


class LoadingWatch:
    def __init__(self, models: Models, clock: Callable[[], float] = time.monotonic) -> None:
        self._models = models
        self._clock = clock
        self._since: dict[_Loading, float] = {}
        self._said: dict[_Loading, float] = {}

    async def run(self) -> None:
        while True:
            for sentence in self.due():
                log.info("%s", sentence)
            await asyncio.sleep(LOOK_SECONDS)

    def due(self) -> list[str]:
        """A sentence for each model that has been loading for LOG_SECONDS since the last one."""
        now, texts = self._clock(), self._look()
        due = [each for each in texts if now - self._said[each] >= LOG_SECONDS]
        self._said |= dict.fromkeys(due, now)
        return [texts[each] for each in due]

    def note(self, model: str | None) -> str:
        """For a job that names `model` (None: the default): that it is loading; "" if it is not."""
        texts, infos = self._look(), self._models.models()
        known = [info.name for info in infos]
        name = model if model in known else known[0] if known else ""
        return texts.get(_Loading("model", name), "")

    def _look(self) -> dict[_Loading, str]:
        now = self._clock()
        found = {
            _Loading(kind, info.name): info
            for kind, infos in self._infos()
            for info in infos
            if info.state in ("loading", "downloading")
        }
        self._since = {each: self._since.get(each, now) for each in found}
        self._said = {each: self._said.get(each, now) for each in found}
        return {each: _sentence(each, info, now - self._since[each]) for each, info in found.items()}

    def _infos(self) -> Iterable[tuple[str, tuple[ModelInfo | PlannerInfo, ...]]]:
        return (("model", self._models.models()), ("planner", self._models.planners()))


def _sentence(loading: _Loading, info: ModelInfo | PlannerInfo, seconds: float) -> str:
    done = f": {info.detail}" if info.state == "downloading" and info.detail else ""
    return f"The {loading.kind} {loading.name} is {info.state}{done}, {seconds:.0f} s so far"
