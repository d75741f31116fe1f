"""What must hold of every plan, over all budgets and models."""

from dataclasses import dataclass, replace
from itertools import pairwise, product

import pytest

from acestep.memory.configs import PLANNERS, TEXT_ENCODER, VAE, published_dit
from acestep.memory.estimate import LargestRequest, stage_workspace
from acestep.memory.number_formats import NumberFormats
from acestep.memory.plan import GB, Abilities, Device, MemoryPlan, Sizes, Wishes
from acestep.memory.search import choose, largest_planner, least, on_all_devices, options
from acestep.memory.sizes import QwenSize
from acestep.settings.types import Quantization

TURBO = published_dit("acestep-v15-turbo", is_turbo=True)

DITS = {
    "turbo": (TURBO,),
    "base": (published_dit("acestep-v15-base", is_turbo=False),),
    "xl": (published_dit("acestep-v15-xl-sft", is_turbo=False),),
    "two": (TURBO, published_dit("acestep-v15-base", is_turbo=False)),
}

ABILITIES = {
    "resident": Abilities(),
    "moving": Abilities(offload=True, stream=True),
    "all": Abilities(True, True, True),
}

BUDGETS = [size * GB // 4 for size in (*range(8, 100), *range(100, 321, 20))]  # 2 to 80 GB

GPU = Device()


def sizes(dits: str = "turbo", planners: tuple[int, ...] = (0, 1, 2)) -> Sizes:
    return Sizes(DITS[dits], TEXT_ENCODER, VAE, tuple(PLANNERS[number] for number in planners))


def worth(plan: MemoryPlan) -> tuple[float, ...]:
    """What people would call better, each for itself."""
    resident = all(part.placement == "resident" for part in plan.parts)
    return (min(plan.max_duration, 240.0), min(plan.max_batch, 2), resident)


WISHES = [
    Wishes(),
    Wishes(planner=False),
    Wishes(planner=True),
    Wishes(offload=False, offload_dit=False, offload_planner=False),
    Wishes(offload=True),
    Wishes(offload_dit=True, planner=False),
    Wishes(offload_planner=True, planner=True),
    Wishes(tile=100),
]


@pytest.mark.parametrize("dits", DITS)
@pytest.mark.parametrize("abilities", ABILITIES)
def test_every_plan_keeps_its_budget_and_its_wishes(dits: str, abilities: str) -> None:
    for wishes, planners in product(WISHES, [(), (0, 1, 2)]):
        if wishes.planner and not planners:
            continue
        plans = options(sizes(dits, planners), wishes, GPU, ABILITIES[abilities])
        before: MemoryPlan | None = None
        for budget in BUDGETS if plans else ():
            plan = choose(plans, budget)
            assert (plan is None) == (budget < least(plans))
            if plan is None:
                assert before is None, "more memory must not turn a plan into none"
                continue
            assert plan.peak <= budget
            assert plan.peak == sum(part.held for part in plan.parts)
            assert all(0 <= part.held <= part.size for part in plan.parts)
            keeps(plan, wishes)
            if before is not None:
                assert worth(plan) >= worth(before)
                assert plans.index(plan) <= plans.index(before)
            before = plan


def keeps(plan: MemoryPlan, wishes: Wishes) -> None:
    for wish, name in (
        (wishes.offload, "text encoder"),
        (wishes.offload, "VAE"),
        (wishes.offload_dit, "DiT"),
    ):
        assert wish is None or (plan.placement(name) != "resident") == wish
    if plan.planner and wishes.offload_planner is not None:
        assert (plan.placement("planner") != "resident") == wishes.offload_planner
    assert wishes.planner is None or bool(plan.planner) == wishes.planner
    assert wishes.tile in (None, plan.tile)


@pytest.mark.parametrize("abilities", ABILITIES)
def test_nothing_is_planned_that_cannot_be_carried_out(abilities: str) -> None:
    can = ABILITIES[abilities]
    placements = (
        {"resident"} | ({"offloaded"} if can.offload else set()) | ({"streamed"} if can.stream else set())
    )
    for plan in options(sizes(), Wishes(), GPU, can):
        assert {part.placement for part in plan.parts} <= placements
        if plan.planner and not can.offload_planner:
            assert plan.placement("planner") == "resident"
    assert (options(sizes(), Wishes(offload=True), GPU, can) == []) == (not can.offload)


def test_turbo_fits_into_four_gb_and_with_a_planner_of_1_7_b_into_six() -> None:
    alone = choose(options(sizes(planners=()), Wishes(), GPU, ABILITIES["all"]), 4 * GB)
    both = choose(options(sizes(planners=(1,)), Wishes(planner=True), GPU, ABILITIES["all"]), 6 * GB)
    assert alone is not None and alone.max_duration >= 240
    assert both is not None and both.max_duration >= 240
    assert both.planner == "acestep-5Hz-lm-1.7B"


def test_eight_gb_hold_turbo_as_it_is() -> None:
    plan = choose(options(sizes(planners=()), Wishes(), GPU, ABILITIES["resident"]), 8 * GB)
    assert plan is not None
    assert (plan.max_batch, plan.max_duration) == (2, 600)


def test_larger_planners_come_with_more_memory() -> None:
    plans = options(sizes(), Wishes(), GPU, ABILITIES["resident"])
    found = [choose(plans, gb * GB) for gb in (8, 12, 16, 24)]
    assert [plan.planner if plan else None for plan in found] == ["", *(planner.name for planner in PLANNERS)]


def test_a_cpu_moves_nothing() -> None:
    cpu = Device.cpu(NumberFormats("float32", frozenset()))
    plans = options(sizes(planners=()), Wishes(), cpu, ABILITIES["all"])
    assert {part.placement for plan in plans for part in plan.parts} == {"resident"}
    gpu = options(sizes(planners=()), Wishes(), GPU, ABILITIES["resident"])
    weights = [plans[0].parts[0].size / gpu[0].parts[0].size, plans[0].parts[2].size / gpu[0].parts[2].size]
    assert weights == [2, 2]  # float32 for bfloat16


def test_a_cpu_works_on_one_song_at_a_time() -> None:
    device = Device.cpu(NumberFormats("bfloat16", frozenset()))
    one, eight = (stage_workspace(sizes(), LargestRequest(240.0, batch, 512), device) for batch in (1, 8))
    assert one == eight


def test_no_plan_is_there_for_nothing() -> None:
    """Each is the best for some budget: the list falls in peaks as it falls in worth."""
    plans = options(sizes(), Wishes(), GPU, ABILITIES["all"])
    assert all(better.peak > worse.peak for better, worse in pairwise(plans))


@pytest.mark.parametrize("kind", ["int8", "fp8"])
@pytest.mark.parametrize("dits", DITS)
def test_quantized_models_keep_their_budget_and_fit_where_others_do(dits: str, kind: Quantization) -> None:
    packed = options(sizes(dits), Wishes(), replace(GPU, quantization=kind), ABILITIES["all"])
    plain = options(sizes(dits), Wishes(), GPU, ABILITIES["all"])
    assert {plan.quantization for plan in packed} == {kind}
    assert least(packed) <= least(plain)
    for budget in BUDGETS:
        plan, other = choose(packed, budget), choose(plain, budget)
        assert plan is None or plan.peak <= budget
        if other is not None:
            assert plan is not None and worth(plan) >= worth(other)
            assert [part.size for part in plan.parts if part.name == "text encoder"] == [
                part.size for part in other.parts if part.name == "text encoder"
            ]


def test_int8_keeps_in_six_gb_what_would_have_to_move() -> None:
    plain = choose(options(sizes(planners=()), Wishes(), GPU, ABILITIES["all"]), 6 * GB)
    device = replace(GPU, quantization="int8")
    packed = choose(options(sizes(planners=()), Wishes(), device, ABILITIES["all"]), 6 * GB)
    assert plain is not None and "offloaded" in {part.placement for part in plain.parts}
    assert packed is not None and {part.placement for part in packed.parts} == {"resident"}


PLANNER_BUDGETS = [size * GB // 8 for size in range(16, 641)]

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
    for budget, documented in product(PLANNER_BUDGETS, NAMES[1:]):
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
    for budget, (number, documented) in product(PLANNER_BUDGETS, enumerate(NAMES[1:])):
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
