"""What is known of the planners of one device, loaded or not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from acestep.domain.models import ModelState, PlannerInfo
from acestep.engine.renderer import LoadPlanner


@dataclass(slots=True, eq=False)
class PlannerEntry:
    """A planner by name. `load` None: it cannot be loaded, and `info.detail` says why."""

    info: PlannerInfo
    load: LoadPlanner | None = None
    has_worked: bool = False

    @property
    def can_load(self) -> bool:
        return self.load is not None and self.info.state != "failed"

    def say(self, state: ModelState, detail: str) -> None:
        self.info = replace(self.info, state=state, detail=detail)

    def give_up(self, reason: str) -> None:
        """Loading failed. If the planner has worked before, the next request tries again."""
        self.say("on_disk" if self.has_worked else "failed", reason)


class OnDemandPlanners(Protocol):
    """The planners that are loaded because a request names them."""

    def names(self) -> tuple[str, ...]:
        """Those that are listed; cheap."""
        ...

    def find(self, name: str) -> PlannerEntry | None:
        """The planner of this name, not loaded yet; None if it cannot be had."""
        ...


class KnownPlanners:
    """The planner `own`, which serves requests that name none or one that cannot be had, and `on_demand`."""

    def __init__(self, own: PlannerEntry, on_demand: OnDemandPlanners | None = None) -> None:
        self.own = own
        self._on_demand = on_demand
        self._others: dict[str, PlannerEntry] = {}

    def info(self, name: str = "") -> PlannerInfo:
        """The planner that serves requests for this name."""
        return self.entry(name).info

    def infos(self) -> tuple[PlannerInfo, ...]:
        """All that are known. The own one is first, even if it is absent."""
        names = self._on_demand.names() if self._on_demand else ()
        others = (entry for entry in map(self.entry, names) if entry is not self.own)
        return (self.own.info, *(entry.info for entry in others))

    def entry(self, name: str) -> PlannerEntry:
        if not name or self._on_demand is None or name == self.own.info.name:
            return self.own
        if name not in self._others:
            found = self._on_demand.find(name)
            if found is None:
                return self.own
            return self._others.setdefault(name, found)  # `infos` may run in another thread
        return self._others[name]

    def forget(self, name: str) -> None:
        """The next request for this name looks for it anew."""
        self._others.pop(name, None)
