"""Models on disk that hum, and a manager of them."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from weakref import WeakSet

from acestep.audio.encode import SongWriter
from acestep.domain.models import ModelInfo
from acestep.engine.engine import Engine
from acestep.engine.model_entry import ModelEntry
from acestep.engine.model_manager import PRIMARY, ModelManager
from acestep.engine.renderer import Loaded, OnLoading
from acestep.errors import CheckpointError
from acestep.files import AudioStore
from acestep.limits import BASE_TASKS, TURBO_TASKS
from tests.engine.fakes import INFO, FakeRenderer, planner_host
from tests.engine.fakes import PATIENCE as SECONDS

TURBO = replace(
    INFO, name="turbo", is_turbo=True, steps=8, shift=3.0, max_steps=8, tasks=TURBO_TASKS, is_default=True
)

BASE = replace(INFO, name="base", steps=50, tasks=BASE_TASKS)
SFT = replace(INFO, name="sft", steps=30)


class Folder:
    """Models on disk; loading one waits for `go_on`, and fails while it is in `broken`.

    `most` is how many models were in memory at once.
    """

    def __init__(self, *infos: ModelInfo) -> None:
        self.infos = {info.name: info for info in infos}
        self.renderers = {info.name: FakeRenderer() for info in infos}
        self.broken: dict[str, str] = {}
        self.absent: tuple[ModelInfo, ...] = ()
        self.say: Any = None  # tells how far the latest load is
        self.loads: list[str] = []
        self.go_on = threading.Event()
        self.go_on.set()
        self.room = len(infos) + 1  # models that may be in memory at once
        self.asked: list[tuple[str, list[str] | None]] = []  # for which model, beside which others
        self.most = 0
        self._in_memory: WeakSet[Loaded] = WeakSet()

    def in_memory(self) -> list[str]:
        gc.collect()
        return sorted(loaded.info.name for loaded in self._in_memory)

    def no_room(self, infos: Sequence[ModelInfo]) -> str:
        return "" if len(infos) <= self.room else f"{len(infos)} are too many"

    def on_disk(self) -> tuple[ModelInfo, ...]:
        return tuple(replace(info, state="on_disk") for info in self.infos.values())

    def to_download(self) -> tuple[ModelInfo, ...]:
        return self.absent

    def find(self, name: str, beside: Sequence[ModelInfo] | None = None) -> ModelEntry:
        self.asked.append((name, None if beside is None else [info.name for info in beside]))
        if name not in self.infos:
            raise CheckpointError(f"There is no model {name!r}.")

        def load(on_loading: OnLoading) -> Loaded:
            self.loads.append(name)
            self.say = on_loading
            assert self.go_on.wait(SECONDS)
            if name in self.broken:
                raise CheckpointError(self.broken[name])
            loaded = Loaded(replace(self.infos[name], state="ready"), self.renderers[name])
            self._in_memory.add(loaded)
            self.most = max(self.most, len(self.in_memory()))
            return loaded

        return ModelEntry(self.infos[name], load)

    def slots(self, *names: str) -> dict[int, ModelEntry]:
        return {PRIMARY + number: self.find(name) for number, name in enumerate(names)}


@asynccontextmanager
async def opened(model_manager: ModelManager) -> AsyncIterator[ModelManager]:
    await model_manager.start()
    try:
        yield model_manager
    finally:
        await model_manager.close()


@asynccontextmanager
async def working(files: AudioStore, model_manager: ModelManager) -> AsyncIterator[Engine]:
    engine = Engine(
        model_manager,
        SongWriter(files, 128),
        planner_host(),
    )
    await engine.start()
    try:
        await engine.wait_ready()
        yield engine
    finally:
        await engine.close()


def states(model_manager: ModelManager) -> Mapping[str, str]:
    return {info.name: info.state for info in model_manager.infos()}


async def borrowed(model_manager: ModelManager, name: str | None) -> tuple[str, tuple[str, ...]]:
    async with model_manager.borrow(name) as (loaded, notes):
        return loaded.info.name, notes


async def settle() -> None:
    """Let every task run as far as it can without a thread."""
    for _ in range(20):
        await asyncio.sleep(0)
