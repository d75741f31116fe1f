"""Room for adapters (LoRA) in the memory plan. Reads their headers."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace

from acestep.catalog.adapters import Adapter, AdapterFolder
from acestep.domain.song import MAX_ADAPTERS
from acestep.errors import CheckpointError
from acestep.memory.plan import GB, MemoryPlan, Sizes, Wishes
from acestep.memory.search import Constraints, choose, gb

# Kept of unused memory for a DiT: four adapters of rank 64 on all attention of a 2 B model take 0.36 GB.
SPARE = GB // 2


@dataclass(frozen=True, slots=True)
class AdapterRoom:
    """Bytes for all adapters of a song."""

    size: int
    bytes_per_weight: int

    def flaw(self, adapters: Iterable[Adapter]) -> str:
        """Why these cannot be used together; "" if they can."""
        needed = sum(adapter.weights for adapter in adapters) * self.bytes_per_weight
        if needed <= self.size:
            return ""
        return (
            f"It takes {gb(needed)} of memory, and the memory plan keeps {gb(self.size)} for adapters of a "
            "song. A start with it in ACESTEP_LORA_DIR keeps more, if ACESTEP_VRAM_BUDGET has room for it"
        )


def adapter_weights(folder: AdapterFolder) -> int:
    """Weights of the largest adapters in `folder`, as many as one song may use."""
    found = []
    for name in folder.names():
        with suppress(CheckpointError):  # a request for it is refused with the reason
            found.append(folder.find(name).weights)
    return sum(sorted(found)[-MAX_ADAPTERS:])


def with_adapters(plan: MemoryPlan, sizes: Sizes, constraints: Constraints) -> tuple[MemoryPlan, Sizes]:
    """The plan with some unused memory kept for adapters, and the sizes with these."""
    bytes_per_weight, count = constraints.device.formats.bytes_of(), len(sizes.dits)
    left = max(0, (constraints.budget.size or 0) - plan.peak)
    roomy = replace(sizes, adapters=sizes.adapters + min(left // count, SPARE) // bytes_per_weight)
    wishes = Wishes(tile=plan.tile, planner=bool(plan.planner))
    same = [
        other
        for other in constraints.with_other_planners(plan, roomy, wishes)
        if other.planner_load == plan.planner_load
    ]
    found = choose(same, constraints.budget.size or 0)
    if found is None:
        found, roomy = plan, sizes
    return replace(found, adapter_room=roomy.adapters * bytes_per_weight), roomy


def adapters_left_out(weights: int, constraints: Constraints) -> str:
    size = gb(weights * constraints.device.formats.bytes_of())
    return (
        f"There is no room for the adapters in ACESTEP_LORA_DIR within {constraints.budget}: {MAX_ADAPTERS} "
        f"of them take up to {size}. Requests for those that do not fit are refused."
    )
