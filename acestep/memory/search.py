"""The search for the best memory plan within a budget.

Every budget picks the best plan that fits, and a larger budget fits all that a smaller one does, so more
memory never gives a worse plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from acestep.domain.song import MAX_BATCH, MAX_DURATION
from acestep.memory.configs import PLANNERS
from acestep.memory.estimate import (
    LargestRequest,
    PlacedModels,
    Placements,
    PlannerCache,
    PlannerLoad,
    place_models,
    stage_workspace,
)
from acestep.memory.plan import GB, Abilities, Device, MemoryPlan, Placement, Sizes, Stage, Wishes
from acestep.memory.sizes import QwenSize

_DURATIONS = (MAX_DURATION, 480.0, 360.0, 240.0, 120.0, 60.0)

_COMMON_DURATION = 240.0  # a plan gives up other things for songs of this length

_BATCHES = (MAX_BATCH, 4, 2, 1)

_COMMON_BATCH = 2  # what is rendered when a request does not say

_TILES = (512, 256, 128, 64)

# Texts that the planner writes at once, and tokens of each: 6,656 are a song of 600 s with the longest words
# (planner.backends.pt); half of that is enough for 240 s (1,200 codes) with 2,128 tokens of words.
_PLANNER_CACHES = (PlannerCache(4, 6656), PlannerCache(2, 6656), PlannerCache(2, 3328, _COMMON_DURATION))

_STEPS = 8  # moves of a streamed DiT for one song of a turbo model

_BASE_STEPS = 50

Rank = tuple[float, ...]


def options(sizes: Sizes, wishes: Wishes, device: Device, abilities: Abilities) -> list[MemoryPlan]:
    """Every plan that keeps the wishes, the best first; none where they cannot be kept at any budget."""
    can = Abilities() if device.is_cpu else abilities  # there is no other memory to move anything to
    places = [
        (planner_load, placements)
        for planner_load in _planner_loads(sizes, wishes)
        for placements in _all_placements(wishes, can, bool(planner_load.planner))
    ]
    return _useful(_ranked(sizes, wishes, device, places, tuple(_limits(sizes, wishes))))


def with_other_planners(
    plan: MemoryPlan, sizes: Sizes, wishes: Wishes, device: Device, abilities: Abilities
) -> list[MemoryPlan]:
    """Every plan that differs from `plan` in its planner and its adapters alone, the best first.

    Placements of models, limits and tile are those of `plan`, so this compares a handful of plans.
    """
    can = Abilities() if device.is_cpu else abilities
    limits = LargestRequest(plan.max_duration, plan.max_batch, plan.tile)
    side, core = plan.placement("text encoder"), plan.placement("DiT")
    places = [
        (planner_load, Placements(side, core, planner))
        for planner_load in _planner_loads(sizes, wishes)
        for planner in _planner_placements(wishes, can, bool(planner_load.planner))
    ]
    return [candidate.plan() for candidate in _ranked(sizes, wishes, device, places, [limits])]


def choose(plans: Sequence[MemoryPlan], budget: int) -> MemoryPlan | None:
    """The best plan within `budget` bytes; None: there is none. `plans` are sorted, the best first."""
    return next((plan for plan in plans if plan.peak <= budget), None)


def least(plans: Sequence[MemoryPlan]) -> int:
    return min(plan.peak for plan in plans)


def requests(seconds: float, batch: int, tile: int) -> list[LargestRequest]:
    """The limits that a model may have, none larger than these, the best first."""
    found = [
        LargestRequest(min(seconds, longest), min(batch, most), tile)
        for longest, most in product(_DURATIONS, _BATCHES)
    ]
    return sorted(set(found), key=lambda each: _usefulness(each.seconds, each.batch), reverse=True)


def common_part(seconds: float, batch: int) -> Rank:
    """The part of the largest request that is usually asked for."""
    return (min(seconds, _COMMON_DURATION), min(batch, _COMMON_BATCH))


@dataclass(frozen=True, slots=True)
class _Candidate:
    """What a plan is made of; thousands are compared, and few become plans."""

    rank: Rank
    peak: int
    models: PlacedModels
    limits: LargestRequest
    workspace: Mapping[Stage, int]

    def plan(self) -> MemoryPlan:
        return self.models.plan(self.limits, self.workspace)


def _ranked(
    sizes: Sizes,
    wishes: Wishes,
    device: Device,
    places: Iterable[tuple[PlannerLoad, Placements]],
    limits: Sequence[LargestRequest],
) -> list[_Candidate]:
    found: list[_Candidate] = []
    workspaces = {each: stage_workspace(sizes, each, device) for each in limits}
    for planner_load, placements in places:
        models = place_models(sizes, planner_load, placements, device)
        moved = sum(
            part.moved * _times(part.placement, sizes)
            for part in models.weights
            # Where the planner is to be offloaded, its moves are no reason to have none.
            if part.name != "planner" or not wishes.offload_planner
        )
        for each, workspace in workspaces.items():
            if each.seconds <= planner_load.cache.seconds:
                rank = _rank(each, planner_load, sizes, moved)
                found.append(_Candidate(rank, models.peak(workspace), models, each, workspace))
    # Of plans that are equally good, the smaller.
    found.sort(key=lambda each: (each.rank, -each.peak), reverse=True)
    return found


def _useful(candidates: Iterable[_Candidate]) -> list[MemoryPlan]:
    # Without plans that are worse than another and no smaller: no budget chooses them.
    kept: list[_Candidate] = []
    for candidate in candidates:
        if not kept or candidate.peak < kept[-1].peak:
            kept.append(candidate)
    return [candidate.plan() for candidate in kept]


def _planner_loads(sizes: Sizes, wishes: Wishes) -> Iterator[PlannerLoad]:
    if wishes.planner is not True:
        yield PlannerLoad()
    if wishes.planner is not False:
        for planner, room in product(sizes.planners, _PLANNER_CACHES):
            yield PlannerLoad(planner, room)


def _all_placements(wishes: Wishes, can: Abilities, has_planner: bool) -> Iterator[Placements]:
    core = _placements(wishes.offload_dit, can.offload)
    if can.stream and wishes.offload_dit is not False:
        core = (*core, "streamed")
    side, planner = _placements(wishes.offload, can.offload), _planner_placements(wishes, can, has_planner)
    for placements in product(side, core, planner):
        yield Placements(*placements)


def _planner_placements(wishes: Wishes, can: Abilities, has_planner: bool) -> tuple[Placement, ...]:
    return _placements(wishes.offload_planner, can.offload_planner) if has_planner else ("resident",)


def _placements(wish: bool | None, can: bool) -> tuple[Placement, ...]:
    possible: tuple[Placement, ...] = ("resident", "offloaded") if can else ("resident",)
    if wish is None:
        return possible
    return tuple(placement for placement in possible if (placement != "resident") == wish)


def _limits(sizes: Sizes, wishes: Wishes) -> Iterator[LargestRequest]:
    tiles = (wishes.tile,) if wishes.tile else _TILES if sizes.vae else _TILES[:1]
    for seconds, batch, tile in product(_DURATIONS, _BATCHES, tiles):
        yield LargestRequest(seconds, batch, tile)


def _times(placement: Placement, sizes: Sizes) -> int:
    if placement != "streamed":
        return 1
    return _STEPS if all(dit.is_turbo for dit in sizes.dits) else _BASE_STEPS


def _rank(limits: LargestRequest, planner_load: PlannerLoad, sizes: Sizes, moved: int) -> Rank:
    # Larger is better: songs of a common length, two at once; nothing moved; a large planner; the rest.
    duration, batch, *rest = _usefulness(limits.seconds, limits.batch)
    planner = sizes.planners.index(planner_load.planner) + 1 if planner_load.planner else 0
    return (duration, batch, -moved, planner, *rest, planner_load.cache.sequences, limits.tile)


def _usefulness(seconds: float, batch: int) -> Rank:
    return (*common_part(seconds, batch), seconds, batch)


PlansWith = Callable[[tuple[QwenSize, ...]], Sequence[MemoryPlan]]

"""The plans with one of these planners, or without where none is required; the best first."""


def largest_planner(plans: PlansWith, budget: int, documented: str) -> str:
    """The largest planner with which no other model has to be offloaded that would be resident without.

    Where none is required, songs must not become shorter either; "" where no planner fits so. Where one is
    required, it is `documented` if that is larger and fits in any way, or if none fits: then the refusal of
    its plan names what would fit.
    """
    best = choose(plans(PLANNERS), budget)
    if best is None:
        return documented
    if alone := choose(plans(()), budget):
        found = ((planner.name, choose(plans((planner,)), budget)) for planner in reversed(PLANNERS))
        longest = alone.max_duration
        return next(
            (name for name, plan in found if plan and plan.planner and plan.max_duration >= longest), ""
        )
    names = [planner.name for planner in PLANNERS]
    if names.index(best.planner) >= names.index(documented):
        return best.planner
    other = choose(plans(tuple(planner for planner in PLANNERS if planner.name == documented)), budget)
    return documented if other else best.planner


def on_all_devices(found: Iterable[str | None]) -> str | None:
    """The smallest of the devices' default planners; None where one of them is unknown."""
    names = ["", *(planner.name for planner in PLANNERS)]
    places = [None if name is None else names.index(name) for name in found]
    known = [place for place in places if place is not None]
    return names[min(known)] if known and len(known) == len(places) else None


@dataclass(frozen=True, slots=True)
class Budget:
    """Bytes available (None: unknown), and where that number comes from."""

    size: int | None
    on_gpu: bool
    source: str

    def __str__(self) -> str:
        return f"{'unknown' if self.size is None else gb(self.size)} ({self.source})"


@dataclass(frozen=True, slots=True)
class Constraints:
    budget: Budget
    device: Device
    can: Abilities

    def options(self, sizes: Sizes, wishes: Wishes) -> list[MemoryPlan]:
        return options(sizes, wishes, self.device, self.can)

    def with_other_planners(self, plan: MemoryPlan, sizes: Sizes, wishes: Wishes) -> list[MemoryPlan]:
        return with_other_planners(plan, sizes, wishes, self.device, self.can)

    def with_planner_moved(self) -> Constraints:
        return replace(self, can=replace(self.can, offload_planner=True))


def gb(size: int) -> str:
    return f"{size / GB:.2f} GB"
