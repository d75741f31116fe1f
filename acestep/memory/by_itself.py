"""Which published planner comes by itself, where none is named.

Owns the rule: the largest that has room beside the models, by the plans that there are. Knows nothing of
settings, folders, or whether the planner is to be had.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from acestep.memory.plan import MemoryPlan
from acestep.memory.published import PLANNERS
from acestep.memory.search import choose
from acestep.memory.sizes import QwenSize

PlansWith = Callable[[tuple[QwenSize, ...]], Sequence[MemoryPlan]]
"""The plans that have one of these planners (the smallest first), or none where there need not be one.

The best plan is the first."""


def largest_planner(plans: PlansWith, budget: int, documented: str) -> str:
    """The name of the largest planner for which nothing has to be moved that would stay without it.

    Where there need not be one, no song has to be shorter for it either; "" where none is so small. Where
    there must be one, it is `documented` instead if that is larger and fits in any way; or if none fits:
    whoever loads it says then what would.
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
    """The planner that has room on each device, where these come by themselves on one of them each."""
    names = ["", *(planner.name for planner in PLANNERS)]
    places = [None if name is None else names.index(name) for name in found]
    known = [place for place in places if place is not None]
    return names[min(known)] if known and len(known) == len(places) else None
