"""Whether models and planners that are loaded while the server runs have room beside those in memory.

One thread computes, so one model is at work at any time: the workspace is needed once, and the limits of one
model do not depend on those of the others. The weights of all count all the time. The planner writes in a
thread of its own and counts beside each model (see `estimate.PlacedModels`). A model that is being loaded
needs no more than its weights, which are read one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import TypeVar, cast

from acestep.catalog.checkpoints import Choice
from acestep.catalog.planner_choice import PlannerChoice
from acestep.domain.models import ModelInfo
from acestep.errors import InvalidFieldError
from acestep.memory.configs import dit_size, planner_size
from acestep.memory.decide import Decision
from acestep.memory.estimate import LargestRequest, plan_with_models
from acestep.memory.plan import MemoryPlan, Wishes
from acestep.memory.search import choose, common_part, gb, largest_planner, requests
from acestep.memory.sizes import DitSize, QwenSize
from acestep.settings.settings import Settings

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in memory, and the largest request that it takes: `batch` songs of `seconds` at once."""

    name: str
    size: DitSize
    batch: int
    seconds: float


class MemoryLedger:
    """What has room on one device beside the models in memory.

    Begins with the decision at the start (None: sizes are unknown, and nothing is limited). Answers are kept
    while the decision and the known models are the same, so that a repeated question costs microseconds.
    Thread-safe: what answers depend on is replaced as a whole, never changed.
    """

    def __init__(self, decision: Decision | None) -> None:
        self._state = _State(decision, {})
        self._replacing = Lock()

    @property
    def decision(self) -> Decision | None:
        """The memory plan with the planner that is in memory now."""
        return self._state.decision

    @decision.setter
    def decision(self, decision: Decision | None) -> None:
        with self._replacing:
            self._state = _State(decision, self._state.sizes)

    def know(self, choice: Choice) -> None:
        if self.decision is not None and choice.name not in self._state.sizes:
            size = dit_size(choice)
            with self._replacing:
                self._state = _State(self._state.decision, {**self._state.sizes, choice.name: size})

    def limited(self, info: ModelInfo, beside: Sequence[ModelInfo] | None = None) -> ModelInfo:
        """The model with its limits while those `beside` are in memory; None: see `_limited_on_demand`."""
        state = self._state
        if state.decision is None:
            return info
        key = ("limited", _key(info), None if beside is None else _keys(beside))
        batch, seconds = state.kept(key, lambda: _limits(state, info, beside))
        return replace(info, max_batch=batch, max_duration=seconds)

    def why_not_together(self, infos: Sequence[ModelInfo]) -> str:
        """Why these models cannot be in memory at once, each with its limits; "" if they can."""
        state = self._state
        key = ("together", _keys(infos))
        return state.kept(key, lambda: _why_not_together(state.decision, state.loaded(infos)))

    def with_planner(
        self, planner: PlannerChoice, settings: Settings, beside: Sequence[ModelInfo]
    ) -> Decision | None:
        """See the function `with_planner`; None where sizes are unknown."""
        state = self._state
        decision = state.decision
        if decision is None or decision.planner_elsewhere:
            return decision
        size = planner_size(planner)
        offload = settings.offload_to_cpu, settings.lm_offload_to_cpu
        key = ("with planner", size, offload, _keys(beside))
        found = state.kept(key, lambda: _find_room(decision, size, settings, state.loaded(beside)))
        return _admitted(found, planner, decision)

    def default_planner(self, settings: Settings, documented: str, beside: Sequence[ModelInfo]) -> str | None:
        """The published default planner, see `largest_planner`; None where no plan can say."""
        state = self._state
        offload = settings.offload_to_cpu, settings.lm_offload_to_cpu
        key = ("default planner", documented, offload, _keys(beside))
        return state.kept(
            key, lambda: _default_planner(state.decision, settings, documented, state.loaded(beside))
        )


@dataclass(frozen=True, slots=True)
class _State:
    # What answers depend on, and the answers so far.
    decision: Decision | None
    sizes: dict[str, DitSize | None]
    _answers: dict[Hashable, object] = field(default_factory=dict)

    def kept(self, key: Hashable, answer: Callable[[], T]) -> T:
        if key not in self._answers:
            self._answers[key] = answer()  # two threads may both work it out, and come to the same
        return cast(T, self._answers[key])

    def loaded(self, infos: Sequence[ModelInfo]) -> list[LoadedModel]:
        return [
            LoadedModel(info.name, size, info.max_batch, info.max_duration)
            for info in infos
            if (size := self.sizes.get(info.name))
        ]


def _key(info: ModelInfo) -> tuple[str, int, float]:
    return info.name, info.max_batch, info.max_duration


def _keys(infos: Sequence[ModelInfo]) -> tuple[tuple[str, int, float], ...]:
    return tuple(_key(info) for info in infos)


def with_planner(
    decision: Decision, planner: PlannerChoice, settings: Settings, loaded: Sequence[LoadedModel] = ()
) -> Decision:
    """The decision with this planner instead of its own; the models stay where they are.

    `loaded` are the models in memory, where these differ from those decided on. Raises InvalidFieldError with
    the bytes needed where the planner has no room, CheckpointError where its config does not give its size.
    """
    if decision.planner_elsewhere:
        return decision
    found = _find_room(decision, planner_size(planner), settings, loaded)
    return _admitted(found, planner, decision)


def _find_room(
    decision: Decision, size: QwenSize, settings: Settings, loaded: Sequence[LoadedModel]
) -> Decision | int:
    # The decision with a planner of this size, or the bytes that it would need.
    plan, budget = decision.plan, decision.budget
    plans = _with_planners(decision, (size,), settings, loaded)
    found = plans[0] if not budget.on_gpu or budget.size is None else choose(plans, budget.size)
    if found is None:
        return min(other.peak for other in plans)
    return replace(
        decision,
        plan=replace(found, adapter_room=plan.adapter_room),
        sizes=replace(decision.sizes, planners=(size,)),
        notes=tuple(note for note in decision.notes if note != decision.planner_problem),
        planner_problem="",
    )


def _admitted(found: Decision | int, planner: PlannerChoice, decision: Decision) -> Decision:
    if isinstance(found, Decision):
        return found
    raise InvalidFieldError(
        "lm_model_path",
        planner.name,
        f"a planner that fits beside the models: with this one {gb(found)} are needed, and there are "
        f"{decision.budget}",
        "Set ACESTEP_INIT_LLM=true and ACESTEP_LM_MODEL_PATH, and start the server again, which may then "
        "place the models otherwise",
    )


def _default_planner(
    decision: Decision | None, settings: Settings, documented: str, loaded: Sequence[LoadedModel]
) -> str | None:
    if decision is None or decision.planner_elsewhere:
        return None
    budget = decision.budget
    if not budget.on_gpu or budget.size is None:
        return None

    def plans(planners: tuple[QwenSize, ...]) -> list[MemoryPlan]:
        return _with_planners(decision, planners, settings, loaded)

    return largest_planner(plans, budget.size, documented)


def _limits(state: _State, info: ModelInfo, beside: Sequence[ModelInfo] | None) -> tuple[int, float]:
    assert state.decision is not None
    size = state.sizes.get(info.name)
    if size is None:
        found = state.decision.limited(info)
    elif beside is None:
        found = _limited_on_demand(state.decision, info, size)
    else:
        found = _limited(state.decision, info, size, [model.size for model in state.loaded(beside)])
    return found.max_batch, found.max_duration


def _limited(decision: Decision, info: ModelInfo, size: DitSize, others: Sequence[DitSize]) -> ModelInfo:
    # The model with the largest limits that hold while the `others` are in memory too. They are no larger
    # than the plan's; where none holds, the smallest, and `why_not_together` says so.
    info = decision.limited(info)
    for limits in requests(info.max_duration, info.max_batch, decision.plan.tile):
        limited = replace(info, max_batch=limits.batch, max_duration=limits.seconds)
        if _fits(decision, limited, size, (*others, size)):
            break
    return limited


def _limited_on_demand(decision: Decision, info: ModelInfo, size: DitSize) -> ModelInfo:
    # As `_limited`, for a model that is loaded because a request names it. It has the room of one of those
    # decided on; where less of a common request fits there than would alone, it has the room of all, and is
    # loaded when the others leave.
    others = decision.sizes.dits[1:]
    beside, alone = (_limited(decision, info, size, sizes) for sizes in (others, ()))
    common = [common_part(each.max_duration, each.max_batch) for each in (beside, alone)]
    return beside if common[0] == common[1] and _fits(decision, beside, size, (*others, size)) else alone


def _why_not_together(decision: Decision | None, loaded: Sequence[LoadedModel]) -> str:
    if decision is None or not loaded:
        return ""
    budget = decision.budget
    if not budget.on_gpu or budget.size is None:
        return ""
    sizes = tuple(model.size for model in loaded)
    needed = _largest_peak(decision.plan, decision, loaded, sizes).peak
    if needed <= budget.size:
        return ""
    names = ", ".join(model.name for model in loaded)
    return f"{names}: at least {gb(needed)} are needed, and there are {budget}"


def _fits(decision: Decision, info: ModelInfo, size: DitSize, together: Sequence[DitSize]) -> bool:
    # Whether a model can be at work with its limits while `together` are in memory, itself among them.
    budget = decision.budget
    if not budget.on_gpu or budget.size is None:
        return True
    model = LoadedModel(info.name, size, info.max_batch, info.max_duration)
    return _at_work(decision.plan, decision, model, together).peak <= budget.size


def _with_planners(
    decision: Decision, planners: tuple[QwenSize, ...], settings: Settings, loaded: Sequence[LoadedModel]
) -> list[MemoryPlan]:
    # The plans that have one of these planners beside the models as they are, the best first.
    constraints, plan = decision.constraints, decision.plan
    offload = settings.lm_offload_to_cpu if constraints.can.offload_planner else None
    if settings.offload_to_cpu is False:
        offload = offload or False
    wishes = Wishes(offload_planner=offload, tile=plan.tile, planner=True)
    sizes = replace(decision.sizes, planners=planners)
    plans = constraints.with_other_planners(plan, sizes, wishes)
    if not loaded:
        return plans
    decision = replace(decision, sizes=sizes)
    # What is kept for models that requests name stays kept.
    dits = (*(model.size for model in loaded), *sizes.dits[len(loaded) :])
    found = (_largest_peak(each, decision, loaded, dits) for each in plans)
    # The limits of the plan hold, though a model that was loaded later may have smaller ones.
    return [replace(each, max_batch=plan.max_batch, max_duration=plan.max_duration) for each in found]


def _largest_peak(
    plan: MemoryPlan, decision: Decision, loaded: Sequence[LoadedModel], dits: Sequence[DitSize]
) -> MemoryPlan:
    # `plan` with `dits` in memory, while that of the `loaded` models is at work that needs the most.
    plans = (_at_work(plan, decision, model, dits) for model in loaded)
    return max(plans, key=lambda each: each.peak)


def _at_work(
    plan: MemoryPlan, decision: Decision, model: LoadedModel, sizes: Sequence[DitSize]
) -> MemoryPlan:
    # `plan` with models of these sizes, while `model` makes its largest request.
    together = replace(decision.sizes, dits=tuple(sizes))
    limits = LargestRequest(model.seconds, model.batch, plan.tile)
    return plan_with_models(plan, together, model.size, limits, decision.constraints.device)
