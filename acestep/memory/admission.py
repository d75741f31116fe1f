"""Models and planners that come while the server runs: whether they have room beside those that are there.

Of the models only one is at work at any time, since one thread computes; so what a model needs beside its
weights is needed once, and how much may be asked of one does not depend on how much of others. Their
weights count all the time. The planner writes in a thread of its own, so it counts beside each of them (see
`count.counted`). A model that is being loaded needs no more than its weights, which are read one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from acestep.catalog.checkpoints import Choice
from acestep.catalog.planner_choice import PlannerChoice
from acestep.domain.models import ModelInfo
from acestep.errors import InvalidFieldError
from acestep.memory.configs import dit_size, planner_size
from acestep.memory.decide import Decision
from acestep.memory.estimate import Limits, recounted
from acestep.memory.plan import MemoryPlan, Wishes
from acestep.memory.search import choose, common_part, gb, largest_planner, requests
from acestep.memory.sizes import DitSize, QwenSize
from acestep.settings.settings import Settings


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in memory, and the largest request that it takes: so many songs of so many seconds at once."""

    name: str
    size: DitSize
    batch: int
    seconds: float

    @classmethod
    def of(cls, info: ModelInfo, size: DitSize) -> LoadedModel:
        """The model with the limits that it has."""
        return cls(info.name, size, info.max_batch, info.max_duration)


def limited_beside(
    decision: Decision, info: ModelInfo, size: DitSize, others: Sequence[DitSize]
) -> ModelInfo:
    """The model with the largest limits that hold while the `others` are in memory too.

    They are no larger than the plan's. Where none holds, they are the smallest that there are, and
    `why_not_together` says so.
    """
    info = decision.limited(info)
    for limits in requests(info.max_duration, info.max_batch, decision.plan.tile):
        limited = replace(info, max_batch=limits.batch, max_duration=limits.seconds)
        if _fits(decision, limited, size, (*others, size)):
            break
    return limited


def limited_on_demand(decision: Decision, info: ModelInfo, size: DitSize) -> ModelInfo:
    """As `limited_beside`, for a model that comes because a request names it.

    It has the place of one of those that were decided on, unless less of a common request fits there than
    would alone; then it comes when others leave.
    """
    others = decision.sizes.dits[1:]
    beside, alone = (limited_beside(decision, info, size, there) for there in (others, ()))
    common = [common_part(each.max_duration, each.max_batch) for each in (beside, alone)]
    return beside if common[0] == common[1] and _fits(decision, beside, size, (*others, size)) else alone


def why_not_together(decision: Decision, loaded: Sequence[LoadedModel]) -> str:
    """Why these models cannot be in memory at once, each with its limits; "" if they can."""
    budget = decision.budget
    if not budget.on_gpu or budget.size is None or not loaded:
        return ""
    sizes = tuple(model.size for model in loaded)
    needed = _together(decision.plan, decision, loaded, sizes).peak
    if needed <= budget.size:
        return ""
    names = ", ".join(model.name for model in loaded)
    return f"{names}: at least {gb(needed)} are needed, and there are {budget}"


def with_planner(
    decision: Decision, planner: PlannerChoice, settings: Settings, loaded: Sequence[LoadedModel] = ()
) -> Decision:
    """What was decided, with this planner instead of the one that it has: models stay where they are.

    `tenants` are those that are in memory by now, where they are not those that were decided on. Raises
    InvalidFieldError where there is no room for the planner beside them, with the number that would do,
    CheckpointError where its config does not say how large it is.
    """
    if decision.planner_elsewhere:
        return decision
    plan, budget = decision.plan, decision.budget
    size = planner_size(planner)
    plans = _with_planners(decision, (size,), settings, loaded)
    found = plans[0] if not budget.on_gpu or budget.size is None else choose(plans, budget.size)
    if found is None:
        needed = min(other.peak for other in plans)
        raise InvalidFieldError(
            "lm_model_path",
            planner.name,
            f"a planner that fits beside the models: with this one {gb(needed)} are needed, and there are "
            f"{budget}",
            "Set ACESTEP_INIT_LLM=true and ACESTEP_LM_MODEL_PATH, and start the server again, which may then "
            "place the models otherwise",
        )
    sizes = replace(decision.sizes, planners=(size,))
    return replace(decision, plan=replace(found, adapter_room=plan.adapter_room), sizes=sizes)


def planner_beside(
    decision: Decision, settings: Settings, documented: str, loaded: Sequence[LoadedModel] = ()
) -> str | None:
    """The published planner that comes by itself, see `largest_planner`; None where no plan can say."""
    budget = decision.budget
    if decision.planner_elsewhere or not budget.on_gpu or budget.size is None:
        return None

    def plans(planners: tuple[QwenSize, ...]) -> list[MemoryPlan]:
        return _with_planners(decision, planners, settings, loaded)

    return largest_planner(plans, budget.size, documented)


def _fits(decision: Decision, info: ModelInfo, size: DitSize, together: Sequence[DitSize]) -> bool:
    """Whether a model can be at work with its limits while `together` are in memory, itself among them."""
    budget = decision.budget
    if not budget.on_gpu or budget.size is None:
        return True
    return _at_work(decision.plan, decision, LoadedModel.of(info, size), together).peak <= budget.size


def _with_planners(
    decision: Decision, planners: tuple[QwenSize, ...], settings: Settings, loaded: Sequence[LoadedModel]
) -> list[MemoryPlan]:
    """The plans that have one of these planners beside the models as they are, the best first."""
    constraints, plan = decision.constraints, decision.plan
    offload = settings.lm_offload_to_cpu if constraints.can.offload_planner else None
    if settings.offload_to_cpu is False:
        offload = offload or False
    wishes = Wishes(offload_planner=offload, tile=plan.tile, planner=True)
    sizes = replace(decision.sizes, planners=planners)
    plans = constraints.beside(plan, sizes, wishes)
    if not loaded:
        return plans
    decision = replace(decision, sizes=sizes)
    # What is kept for models that come when requests name them stays kept.
    dits = (*(model.size for model in loaded), *sizes.dits[len(loaded) :])
    found = (_together(each, decision, loaded, dits) for each in plans)
    # What the plan allows stays, though a model that came later may take less.
    return [replace(each, max_batch=plan.max_batch, max_duration=plan.max_duration) for each in found]


def _together(
    plan: MemoryPlan, decision: Decision, loaded: Sequence[LoadedModel], dits: Sequence[DitSize]
) -> MemoryPlan:
    """`plan` with `dits` in memory, while that of these tenants is at work that needs the most."""
    plans = (_at_work(plan, decision, model, dits) for model in loaded)
    return max(plans, key=lambda each: each.peak)


def _at_work(
    plan: MemoryPlan, decision: Decision, model: LoadedModel, sizes: Sequence[DitSize]
) -> MemoryPlan:
    """`plan` with models of these sizes, while `tenant` makes as much as it may."""
    together = replace(decision.sizes, dits=tuple(sizes))
    limits = Limits(model.seconds, model.batch, plan.tile)
    return recounted(plan, together, model.size, limits, decision.constraints.device)


class MemoryLedger:
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
                guests[info] = limited_on_demand(self.decision, info, size)
            return guests[info]
        return limited_beside(
            self.decision, info, size, [model.size for model in self._loaded_models(beside)]
        )

    def why_not_together(self, infos: Sequence[ModelInfo]) -> str:
        return why_not_together(self.decision, self._loaded_models(infos)) if self.decision else ""

    def with_planner(
        self, planner: PlannerChoice, settings: Settings, beside: Sequence[ModelInfo]
    ) -> Decision | None:
        decision = self.decision
        return with_planner(decision, planner, settings, self._loaded_models(beside)) if decision else None

    def default_planner(self, settings: Settings, documented: str, beside: Sequence[ModelInfo]) -> str | None:
        decision = self.decision
        return (
            planner_beside(decision, settings, documented, self._loaded_models(beside)) if decision else None
        )

    def _loaded_models(self, infos: Sequence[ModelInfo]) -> list[LoadedModel]:
        return [LoadedModel.of(info, size) for info in infos if (size := self._sizes.get(info.name))]
