"""A place on the shelf: a model in memory, or on its way there.

What is loaded when is the shelf's affair.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from acestep.domain.models import ModelInfo, ModelState
from acestep.engine.renderer import Load, Loaded


def nothing() -> None:
    """For places whose failure changes nothing else."""


class ModelEntry:
    """Where a model is, or will be. `loading` is its task, done or not; without one it is on disk alone."""

    def __init__(self, info: ModelInfo, load: Load | None) -> None:
        self.info = info
        self.load = load
        self.loaded: Loaded | None = None
        self.loading: asyncio.Task[None] | None = None
        self.settled = asyncio.Event()
        self.users = 0
        self.last_use = -1
        self.used_at = 0.0
        self.has_worked = False
        self.on_failure: Callable[[], None] = nothing

    @property
    def stage(self) -> str:
        """What its loading is called where it does not get on."""
        return f"load {self.info.name}"

    @property
    def takes_room(self) -> bool:
        """Whether the model is in memory, or on its way there."""
        return self.loaded is not None or (self.loading is not None and not self.settled.is_set())

    @property
    def idle_since(self) -> float | None:
        return None if self.users or self.loaded is None else self.used_at

    def on_loading(self, state: ModelState, detail: str) -> None:
        """How far loading is; called from its thread too."""
        self.info = replace(self.info, state=state, detail=detail)

    def give_up(self, reason: str) -> None:
        """Loading failed. What was in memory once may be there again when there is more room."""
        self.on_failure()
        self.on_loading("on_disk" if self.has_worked else "failed", reason)
        if self.has_worked:
            self.loading = None
