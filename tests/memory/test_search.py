"""What must hold of every plan, over all budgets and models."""

from dataclasses import replace
from itertools import pairwise, product

import pytest

from acestep.memory.plan import GB, Abilities, Device, MemoryPlan, Sizes, Wishes
from acestep.memory.published import PLANNERS, TEXT_ENCODER, VAE, published_dit
from acestep.memory.search import choose, least, options
from acestep.setting_kinds import Quantization

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
    plans = options(sizes(planners=()), Wishes(), Device.cpu(), ABILITIES["all"])
    assert {part.placement for plan in plans for part in plan.parts} == {"resident"}
    gpu = options(sizes(planners=()), Wishes(), GPU, ABILITIES["resident"])
    weights = [plans[0].parts[0].size / gpu[0].parts[0].size, plans[0].parts[2].size / gpu[0].parts[2].size]
    assert weights == [2, 2]  # float32 for bfloat16


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
