"""One model of the manager, and the catalog that it comes from."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from acestep.domain.models import ModelInfo, ModelState
from acestep.engine.renderer import Load, Loaded


class ModelEntry:
    """One model; without `load` it cannot be loaded, and `info.detail` says why.

    `loading` is the task that loads it, done or not; None: it is on disk only. `is_leaving`: another model is
    loaded as soon as this one is out of memory.
    """

    def __init__(self, info: ModelInfo, load: Load | None = None) -> None:
        self.info = info
        self.load = load
        self.loaded: Loaded | None = None
        self.loading: asyncio.Task[None] | None = None
        self.settled = asyncio.Event()
        self.users = 0
        self.last_use = -1
        self.used_at = 0.0
        self.has_worked = False
        self.is_leaving = False

    @property
    def stage(self) -> str:
        return f"load {self.info.name}"

    @property
    def is_loading(self) -> bool:
        return self.loading is not None and not self.settled.is_set()

    @property
    def takes_room(self) -> bool:
        return self.loaded is not None or self.is_loading

    @property
    def idle_since(self) -> float | None:
        return None if self.users or self.loaded is None else self.used_at

    def on_loading(self, state: ModelState, detail: str) -> None:
        """Note the progress of loading; called from its thread too."""
        self.info = replace(self.info, state=state, detail=detail)

    def give_up(self, reason: str) -> None:
        """Note that loading failed. A model that was in memory before may load when there is more room."""
        self.on_loading("on_disk" if self.has_worked else "failed", reason)
        if self.has_worked:
            self.loading = None


class Catalog(Protocol):
    """The models on disk."""

    def on_disk(self) -> tuple[ModelInfo, ...]:
        """All complete models, as far as they are known without loading them; cheap."""
        ...

    def to_download(self) -> tuple[ModelInfo, ...]:
        """Published models that are not on disk, and that a request may name; cheap."""
        ...

    def find(self, name: str, beside: Sequence[ModelInfo] | None = None) -> ModelEntry:
        """The model with the limits that hold while those `beside` are in memory (None: others leave for it).

        Raises CheckpointError that says how to get it.
        """
        ...

    def no_room(self, infos: Sequence[ModelInfo]) -> str:
        """Why these models cannot be in memory together, with their limits; "" if they can."""
        ...
