"""What is planned for cards of common sizes, with models of published sizes.

    uv run python -m benchmarks.memory [--dit acestep-v15-xl-turbo] [--planner acestep-5Hz-lm-4B]
        [--quantization int8]

Nothing is loaded: weights are counted, and tests hold the counts, and what the models need beside their
weights, against the real classes on the meta device. Plans are those that the server makes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

from acestep.catalog.planner_choice import PlannerWish, choose_planner
from acestep.memory.configs import PLANNERS, TEXT_ENCODER, VAE, published_dit
from acestep.memory.decide import ABILITIES
from acestep.memory.plan import GB, Device, MemoryPlan, Sizes, Wishes
from acestep.memory.search import choose, largest_planner, options
from acestep.memory.sizes import QwenSize

CARDS = (24, 16, 12, 8, 6, 4)
_LETTER = {"resident": "on", "offloaded": "offloaded", "streamed": "streamed"}
_HEAD = "| GB | planner | text enc. | cond. enc. | DiT | VAE | planner is | texts | tile | batch | s | peak |"


def rows(dit: str, init: bool | None, planner: str | None, device: Device) -> Iterator[str]:
    """A row of Markdown for each card; `init` as ACESTEP_INIT_LLM, `planner` as ACESTEP_LM_MODEL_PATH."""
    sizes = Sizes((published_dit(dit, is_turbo="turbo" in dit),), TEXT_ENCODER, VAE)

    @cache
    def plans(planners: tuple[QwenSize, ...]) -> list[MemoryPlan]:
        wishes = Wishes(planner=init if planners else False)
        return options(replace(sizes, planners=planners), wishes, device, ABILITIES)

    for card in CARDS:
        wish = PlannerWish(init, planner, dit, Path("no-such-folder"))
        by_plan = partial(largest_planner, plans, card * GB)
        name = choose_planner(wish, partial(float, card), lambda: True, by_plan).name
        plan = choose(plans(tuple(each for each in PLANNERS if each.name == name)), card * GB)
        yield f"| {card} | {'does not fit' if plan is None else _row(plan)} |"


def _row(plan: MemoryPlan) -> str:
    places = [_LETTER[plan.placement(name)] for name in ("text encoder", "condition encoder", "DiT", "VAE")]
    planner = plan.planner.removeprefix("acestep-5Hz-lm-") or "none"
    its_place = _LETTER[plan.placement("planner")] if plan.planner else ""
    room = f"{plan.sequences} x {plan.length}" if plan.planner else ""
    limits = (str(plan.tile), str(plan.max_batch), f"{plan.max_duration:g}", f"{plan.peak / GB:.2f}")
    return " | ".join([planner, *places, its_place, room, *limits])


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dit", default="acestep-v15-turbo", help="a published name")
    parser.add_argument("--planner", help="a published name; without, whichever the server would choose")
    parser.add_argument("--quantization", choices=("none", "int8", "fp8"), default="none")
    flags = parser.parse_args()
    device = Device(quantization=flags.quantization)
    for title, init in (
        ("with ACESTEP_INIT_LLM unset", None),
        ("with a planner (ACESTEP_INIT_LLM=true)", True),
        ("without a planner (ACESTEP_INIT_LLM=false)", False),
    ):
        print(f"\n{flags.dit}, {title}, quantization {flags.quantization}\n")
        print(f"{_HEAD}\n|{'---|' * (_HEAD.count('|') - 1)}")
        for row in rows(flags.dit, init, flags.planner, device):
            print(row)


if __name__ == "__main__":
    main()
