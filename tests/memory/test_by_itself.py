"""Which published planner comes by itself, over all budgets from 2 to 80 GB."""

from dataclasses import dataclass, replace
from itertools import product

import pytest

from acestep.memory.by_itself import largest_planner, on_all_devices
from acestep.memory.plan import GB, Abilities, Device, MemoryPlan, Sizes, Wishes
from acestep.memory.published import PLANNERS, TEXT_ENCODER, VAE, published_dit
from acestep.memory.search import choose, least, options
from acestep.memory.sizes import QwenSize
from acestep.setting_kinds import Quantization

BUDGETS = [size * GB // 8 for size in range(16, 641)]
NAMES = ["", *(planner.name for planner in PLANNERS)]
SMALLEST, MIDDLE, LARGEST = NAMES[1:]
MOVING = Abilities(True, True, True)


@dataclass
class Plans:
    """All plans of one DiT, counted once for all budgets."""

    dit: str
    quantization: Quantization
    wishes: Wishes

    def __post_init__(self) -> None:
        choices = [(), PLANNERS, *((planner,) for planner in PLANNERS)]
        self._plans = {choice: self.of(choice, self.wishes, MOVING) for choice in choices}

    def of(self, planners: tuple[QwenSize, ...], wishes: Wishes, can: Abilities) -> list[MemoryPlan]:
        dit = published_dit(self.dit, is_turbo=True)
        sizes = Sizes((dit,), TEXT_ENCODER, VAE, planners)
        return options(sizes, wishes, replace(Device(), quantization=self.quantization), can)

    def __call__(self, planners: tuple[QwenSize, ...]) -> list[MemoryPlan]:
        return self._plans[planners]

    def staying(self, planners: tuple[QwenSize, ...]) -> list[MemoryPlan]:
        """Those in which all stays on the GPU, and two songs of 240 s or more are made at once."""
        plans = self.of(planners, Wishes(planner=bool(planners)), Abilities())
        return [plan for plan in plans if plan.max_batch >= 2 and plan.max_duration >= 240]


@pytest.mark.parametrize("quantization", ["none", "int8", "fp8"])
@pytest.mark.parametrize("dit", ["acestep-v15-turbo", "acestep-v15-xl-turbo"])
def test_what_was_not_asked_for_is_the_largest_that_stays(dit: str, quantization: Quantization) -> None:
    plans = Plans(dit, quantization, Wishes())
    alone = plans.of((), Wishes(), MOVING)
    least_alone = min(plan.peak for plan in plans.staying(()))
    beside = {planner.name: plans.staying((planner,)) for planner in PLANNERS}
    found_at: dict[str, int] = {}
    for budget, documented in product(BUDGETS, NAMES[1:]):
        without = choose(alone, budget)
        if budget < least_alone or without is None:
            continue
        fits = [
            name
            for name, those in beside.items()
            if any(plan.peak <= budget and plan.max_duration >= without.max_duration for plan in those)
        ]
        found = largest_planner(plans, budget, documented)
        assert found == max(fits, key=NAMES.index, default=""), "the largest that takes nothing away"
        found_at.setdefault(found, budget)
    assert set(found_at) >= {"", MIDDLE, LARGEST}


@pytest.mark.parametrize("quantization", ["none", "int8", "fp8"])
@pytest.mark.parametrize("dit", ["acestep-v15-turbo", "acestep-v15-xl-turbo"])
def test_what_was_asked_for_is_no_smaller_than_documented(dit: str, quantization: Quantization) -> None:
    plans = Plans(dit, quantization, Wishes(planner=True))
    before = dict.fromkeys(NAMES[1:], SMALLEST)
    for budget, (number, documented) in product(BUDGETS, enumerate(NAMES[1:])):
        found = largest_planner(plans, budget, documented)
        fits = [planner.name for planner in PLANNERS if least(plans((planner,))) <= budget]
        assert found in fits or (not fits and found == documented)
        if documented in fits:
            assert NAMES.index(found) > number, "not smaller than the documented one"
            stays = choose(plans(PLANNERS), budget)
            assert stays is not None and found in (documented, stays.planner)
        if fits:
            assert NAMES.index(found) >= NAMES.index(before[documented]), "more memory, no smaller planner"
            before[documented] = found
    assert before == dict.fromkeys(NAMES[1:], LARGEST)


def test_int8_makes_room_for_the_next_size() -> None:
    plain, packed = (Plans("acestep-v15-turbo", kind, Wishes(planner=True)) for kind in ("none", "int8"))
    found = [[largest_planner(each, gb * GB, SMALLEST) for gb in (6, 12, 16, 24)] for each in (plain, packed)]
    assert found == [[SMALLEST, SMALLEST, MIDDLE, LARGEST], [SMALLEST, MIDDLE, LARGEST, LARGEST]]


@pytest.mark.parametrize(
    ("found", "name"),
    [
        ([LARGEST], LARGEST),
        ([LARGEST, SMALLEST, MIDDLE], SMALLEST),
        ([LARGEST, ""], ""),
        ([LARGEST, None], None),
        ([None], None),
    ],
)
def test_all_devices_have_the_same(found: list[str | None], name: str | None) -> None:
    assert on_all_devices(found) == name
