from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import replace

from acestep.catalog.checkpoints import PUBLISHED, Choice
from acestep.catalog.download import fetch_for_server, order_for
from acestep.catalog.hubs import is_offline
from acestep.domain.models import ModelInfo
from acestep.engine.renderer import OnLoading
from acestep.errors import CheckpointError
from acestep.server.configured_models import expect
from acestep.settings.settings import Settings

PAUSE = 300.0  # seconds after a failed download, as in the original
_WHEN = "It is downloaded when a request names it."


class Downloads:
    """The published models that requests may have downloaded."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._failed: dict[str, tuple[float, str]] = {}  # when, and why

    def infos(self, there: Collection[str]) -> tuple[ModelInfo, ...]:
        """Those that are not `there`; the state of one that failed lately is "failed"."""
        if is_offline():
            return ()
        dits = (published for published in PUBLISHED.values() if published.kind == "dit")
        absent = (published for published in dits if published.name not in there)
        choices = (Choice(each.name, None, each.is_turbo, each.defaults) for each in absent)
        return tuple(self._info(expect(choice)) for choice in choices)

    def fetch(self, name: str, on_loading: OnLoading) -> None:
        """Raises CheckpointError, also within the pause after a download that failed."""
        if paused := self._pause(name):
            raise CheckpointError(paused)
        try:
            fetch_for_server(order_for(name, self._settings), on_loading, on_loading.beat)
        except CheckpointError as error:
            self._failed[name] = self._clock(), str(error)
            raise
        self._failed.pop(name, None)

    def _info(self, info: ModelInfo) -> ModelInfo:
        paused = self._pause(info.name)
        return replace(
            info, state="failed" if paused else "absent", detail=paused or _WHEN, loads_on_demand=True
        )

    def _pause(self, name: str) -> str:
        when, why = self._failed.get(name, (0.0, ""))
        left = when + PAUSE - self._clock()
        return f"{why} It is not tried again for {left:.0f} s." if why and left > 0 else ""
