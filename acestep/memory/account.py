"""What of one device's memory is taken while the server runs, and whether more may come.

Owns which memory plan holds now, and how large the models are that it was told of; who of them is in memory,
its callers say. The rule is in `joining`. For any thread.
"""

from __future__ import annotations

from collections.abc import Sequence

from acestep.checkpoints import Choice
from acestep.domain import ModelInfo
from acestep.memory.decide import Decision
from acestep.memory.folders import dit_size
from acestep.memory.joining import (
    Tenant,
    limited_beside,
    limited_for_guest,
    planner_beside,
    why_not_together,
    with_planner,
)
from acestep.memory.sizes import DitSize
from acestep.planners import PlannerChoice
from acestep.settings import Settings


class Account:
    """Begins with what the server was started with; None where nobody knows what that takes up."""

    def __init__(self, decision: Decision | None) -> None:
        self._decision = decision
        self._sizes: dict[str, DitSize | None] = {}
        self._guests: dict[ModelInfo, ModelInfo] = {}  # limits are asked for with every request

    @property
    def decision(self) -> Decision | None:
        """The memory plan with the planner that there is now."""
        return self._decision

    @decision.setter
    def decision(self, decision: Decision | None) -> None:
        self._decision, self._guests = decision, {}

    def know(self, choice: Choice) -> None:
        """Learn how large a model is that may come; reads its configs once."""
        if self.decision is not None and choice.name not in self._sizes:
            self._sizes[choice.name] = dit_size(choice)

    def limited(self, info: ModelInfo, beside: Sequence[ModelInfo] | None = None) -> ModelInfo:
        """The model with the limits that it has in memory: see `limited_beside`.

        `beside` are those in memory; None: whoever is there makes way where there is no room for both.
        """
        if self.decision is None:
            return info
        size = self._sizes.get(info.name)
        if size is None:
            return self.decision.limited(info)
        if beside is None:
            guests = self._guests
            if info not in guests:
                guests[info] = limited_for_guest(self.decision, info, size)
            return guests[info]
        return limited_beside(self.decision, info, size, [tenant.size for tenant in self._tenants(beside)])

    def why_not_together(self, infos: Sequence[ModelInfo]) -> str:
        """See `joining.why_not_together`; of a model of unknown size, loading says what is wrong with it."""
        return why_not_together(self.decision, self._tenants(infos)) if self.decision else ""

    def with_planner(
        self, planner: PlannerChoice, settings: Settings, beside: Sequence[ModelInfo]
    ) -> Decision | None:
        """See `joining.with_planner`; `beside` are the models in memory."""
        decision = self.decision
        return with_planner(decision, planner, settings, self._tenants(beside)) if decision else None

    def planner_by_itself(
        self, settings: Settings, documented: str, beside: Sequence[ModelInfo]
    ) -> str | None:
        """See `joining.planner_beside`; `beside` are the models in memory."""
        decision = self.decision
        return planner_beside(decision, settings, documented, self._tenants(beside)) if decision else None

    def _tenants(self, infos: Sequence[ModelInfo]) -> list[Tenant]:
        return [Tenant.of(info, size) for info in infos if (size := self._sizes.get(info.name))]
