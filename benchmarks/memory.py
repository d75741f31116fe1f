"""What is planned for cards of common sizes, with models of published sizes.

    uv run python -m benchmarks.memory [--dit acestep-v15-xl-turbo] [--all]

Nothing is loaded: weights are counted, and tests hold the counts, and what the models need beside their
weights, against the real classes on the meta device. Plans are those that the server makes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from acestep.memory.decide import CARRIED_OUT
from acestep.memory.plan import GB, Abilities, Device, MemoryPlan, Sizes, Wishes, choose, options
from acestep.memory.sizes import PLANNERS, TEXT_ENCODER, VAE, published_dit

CARDS = (24, 16, 12, 8, 6, 4)
EVERYTHING = Abilities(offload=True, stream=True, offload_planner=True)
_LETTER = {"resident": "on", "offloaded": "offloaded", "streamed": "streamed"}
_HEAD = "| GB | planner | text enc. | cond. enc. | DiT | VAE | planner is | texts | tile | batch | s | peak |"


def rows(dit: str, is_turbo: bool, wishes: Wishes, can: Abilities) -> Iterator[str]:
    """A row of Markdown for each card."""
    sizes = Sizes((published_dit(dit, is_turbo),), TEXT_ENCODER, VAE, PLANNERS)
    plans = options(sizes, wishes, Device(), can)
    for card in CARDS:
        plan = choose(plans, card * GB)
        yield f"| {card} | {'does not fit' if plan is None else _row(plan)} |"


def _row(plan: MemoryPlan) -> str:
    places = [_LETTER[plan.placement(name)] for name in ("text encoder", "condition encoder", "DiT", "VAE")]
    planner = plan.planner.removeprefix("acestep-5Hz-lm-") or "none"
    its_place = _LETTER[plan.placement("planner")] if plan.planner else ""
    room = f"{plan.slots} x {plan.length}" if plan.planner else ""
    limits = (str(plan.tile), str(plan.max_batch), f"{plan.max_duration:g}", f"{plan.peak / GB:.2f}")
    return " | ".join([planner, *places, its_place, room, *limits])


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dit", default="acestep-v15-turbo", help="a published name")
    parser.add_argument("--all", action="store_true", help="also placements that this version cannot do")
    flags = parser.parse_args()
    for title, wishes in (
        ("with a planner if that makes nothing slower (ACESTEP_INIT_LLM unset)", Wishes()),
        ("with a planner (ACESTEP_INIT_LLM=true)", Wishes(planner=True)),
        ("without a planner (ACESTEP_INIT_LLM=false)", Wishes(planner=False)),
    ):
        can = EVERYTHING if flags.all else CARRIED_OUT
        print(f"\n{flags.dit}, {title}\n\n{_HEAD}\n|{'---|' * (_HEAD.count('|') - 1)}")
        for row in rows(flags.dit, "turbo" in flags.dit, wishes, can):
            print(row)


if __name__ == "__main__":
    main()
