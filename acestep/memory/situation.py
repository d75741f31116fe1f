"""What a plan is made for: how much memory there is, on what device, and what the program can do there.

Owns these facts and how bytes are spelled for people. Knows nothing of settings or folders.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from acestep.memory.plan import GB, Abilities, Device, MemoryPlan, Sizes, Wishes
from acestep.memory.search import beside, options


@dataclass(frozen=True, slots=True)
class Budget:
    """Bytes that there are (None: nobody knows), on what, and who says so."""

    size: int | None
    on_gpu: bool
    source: str

    def __str__(self) -> str:
        there = "unknown" if self.size is None else gb(self.size)
        return f"{there} ({self.source})"


@dataclass(frozen=True, slots=True)
class Situation:
    """`can` is what can be carried out on `device`."""

    budget: Budget
    device: Device
    can: Abilities

    def options(self, sizes: Sizes, wishes: Wishes) -> list[MemoryPlan]:
        """See `search.options`."""
        return options(sizes, wishes, self.device, self.can)

    def beside(self, plan: MemoryPlan, sizes: Sizes, wishes: Wishes) -> list[MemoryPlan]:
        """See `search.beside`."""
        return beside(plan, sizes, wishes, self.device, self.can)

    def with_planner_moved(self) -> Situation:
        """The same, where a planner can make way."""
        return replace(self, can=replace(self.can, offload_planner=True))


def gb(size: int) -> str:
    """Bytes as people read them."""
    return f"{size / GB:.2f} GB"
