"""Several workers as one: a device each, under one queue."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from acestep.domain.draft import Draft, DraftRequest
from acestep.domain.models import ModelInfo, ModelState, PlannerInfo
from acestep.domain.song import Song, SongRequest
from acestep.engine.threads import all_of
from acestep.errors import AceStepError
from acestep.jobs.worker import Cancelled, ModelKeeper, OnProgress, Worker

_USUAL_SECONDS = 120.0  # of a song without a duration
_DRAFT_SECONDS = 10.0  # of music, as which a draft counts
# The state shown of a model whose states differ between workers is the first of these.
_BEST_FIRST: tuple[ModelState, ...] = ("ready", "on_disk", "loading", "downloading", "failed", "absent")


class Fleet:
    """The `Worker` that hands each request to one of several."""

    def __init__(self, workers: Sequence[Worker]) -> None:
        self._workers = tuple(workers)
        self._load = [0.0] * len(self._workers)  # seconds of music that each has to make

    def models(self) -> tuple[ModelInfo, ...]:
        """The models of all workers, with the limits that hold on each device."""
        return merged([worker.models() for worker in self._workers])

    def planner(self, name: str = "") -> PlannerInfo:
        infos = [worker.planner(name) for worker in self._workers]
        return min(infos, key=lambda info: (name not in ("", info.name), _rank(info)))

    def planners(self) -> tuple[PlannerInfo, ...]:
        others = itertools.chain.from_iterable(worker.planners()[1:] for worker in self._workers)
        names = dict.fromkeys(info.name for info in others)
        return (self.planner(), *(self.planner(name) for name in names))

    def trouble(self) -> str:
        """Only if no worker can make songs."""
        troubles = [worker.trouble() for worker in self._workers]
        return " ".join(dict.fromkeys(troubles)) if all(troubles) else ""

    async def wait_ready(self) -> None:
        await _first(worker.wait_ready() for worker in self._workers)

    async def draft(self, request: DraftRequest, cancelled: Cancelled) -> Draft:
        name = request.options.model
        wanted = self.planner(name).name
        async with self._least_busy(_DRAFT_SECONDS, lambda each: not _plans(each, wanted)) as worker:
            return await worker.draft(request, cancelled)

    async def run(
        self, request: SongRequest, on_progress: OnProgress, cancelled: Cancelled
    ) -> tuple[Song, ...]:
        seconds = len(request.seeds) * (request.duration or _USUAL_SECONDS)
        known = any(info.name == request.model for info in self.models())
        model = request.model if known else None  # then it is the default that makes it
        async with self._least_busy(seconds, lambda worker: _distance(worker, model)) as worker:
            return await worker.run(request, on_progress, cancelled)

    @asynccontextmanager
    async def _least_busy(self, seconds: float, distance: Callable[[Worker], int]) -> AsyncIterator[Worker]:
        # The least busy of the nearest workers without trouble; it has `seconds` more meanwhile.
        able = [number for number, worker in enumerate(self._workers) if not worker.trouble()]
        number = min(
            able or range(len(self._workers)),
            key=lambda each: (distance(self._workers[each]), self._load[each]),
        )
        self._load[number] += seconds
        try:
            yield self._workers[number]
        finally:
            self._load[number] -= seconds


class FleetKeeper:
    """All devices have the same models in their slots."""

    def __init__(self, keepers: Sequence[ModelKeeper]) -> None:
        self._keepers = tuple(keepers)

    def inventory(self) -> tuple[ModelInfo, ...]:
        return merged([keeper.inventory() for keeper in self._keepers])

    async def put(self, number: int, name: str | None = None) -> ModelInfo:
        changed: list[tuple[ModelKeeper, set[str]]] = []
        infos: list[ModelInfo] = []
        for keeper in self._keepers:
            before = _in_slots(keeper)
            try:
                infos.append(await keeper.put(number, name))
            except AceStepError:
                await _put_back(number, changed)
                raise
            changed.append((keeper, before))
        return merged([info] for info in infos)[0]

    async def reload(self) -> tuple[str, ...]:
        names = await all_of(keeper.reload() for keeper in self._keepers)
        return tuple(dict.fromkeys(itertools.chain.from_iterable(names)))


async def _put_back(number: int, changed: Iterable[tuple[ModelKeeper, set[str]]]) -> None:
    # Give these keepers the models back that they had in the slot.
    for keeper, before in changed:
        for name in before - _in_slots(keeper):
            await keeper.put(number, name)


def _in_slots(keeper: ModelKeeper) -> set[str]:
    return {info.name for info in keeper.inventory() if info.state != "on_disk"}


def merged(inventories: Iterable[Sequence[ModelInfo]]) -> tuple[ModelInfo, ...]:
    """Each model once, with its best state and its tightest limits."""
    by_name: dict[str, ModelInfo] = {}
    for info in itertools.chain.from_iterable(inventories):
        other = by_name.get(info.name, info)
        by_name[info.name] = replace(
            min(other, info, key=_rank),
            max_duration=min(other.max_duration, info.max_duration),
            max_batch=min(other.max_batch, info.max_batch),
        )
    return tuple(by_name.values())


def _rank(info: ModelInfo | PlannerInfo) -> int:
    return _BEST_FIRST.index(info.state)


def _plans(worker: Worker, planner: str) -> bool:
    info = worker.planner(planner)
    return info.is_usable and info.name == planner


def _distance(worker: Worker, model: str | None) -> int:
    # 0: the model is in memory there, 1: it can be loaded, 2: it cannot. None is the default.
    infos = worker.models()
    if model is not None:
        infos = tuple(info for info in infos if info.name == model)
    if any(info.state == "ready" for info in infos[:1]):
        return 0
    return 1 if any(info.is_usable or info.state == "downloading" for info in infos[:1]) else 2


async def _first(waits: Iterable[Coroutine[Any, Any, None]]) -> None:
    tasks = [asyncio.create_task(wait) for wait in waits]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
