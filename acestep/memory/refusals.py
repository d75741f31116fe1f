"""Why a server cannot start within its memory, and which setting to change.

Owns the order in which settings are blamed, and the sentences. Each names the number that would do.
"""

from __future__ import annotations

from dataclasses import replace

from acestep.errors import ModelUnavailableError, SettingError
from acestep.memory.plan import GB, Sizes, Wishes
from acestep.memory.published import PLANNERS
from acestep.memory.search import least
from acestep.memory.situation import Situation, gb
from acestep.memory.stored import VARIABLE

BUDGET = "ACESTEP_VRAM_BUDGET"


def refusal(sizes: Sizes, wishes: Wishes, situation: Situation) -> SettingError | ModelUnavailableError:
    """Why nothing fits: the first setting without which something would, or else the budget."""
    budget, device = situation.budget, situation.device
    assert budget.size is not None
    needed = least(situation.options(sizes, wishes))
    there = f"at least {gb(needed)} are needed, and there are {budget}"
    if wishes.planner and not situation.can.offload_planner:
        enough = least(situation.with_planner_moved().options(sizes, wishes))
        if enough <= budget.size:
            allowed = f"pt, which takes {gb(enough)}, as the planner makes way while idle; with vllm {there}"
            return SettingError("ACESTEP_LM_BACKEND", "vllm", allowed)
    if smaller := _smaller_planner(sizes, wishes, situation):
        name, enough = smaller
        allowed = f"{name}, which takes {gb(enough)}; with this one {there}"
        return SettingError("ACESTEP_LM_MODEL_PATH", sizes.planners[0].name, allowed)
    loosened = {
        "ACESTEP_OFFLOAD_TO_CPU": replace(wishes, offload=None, offload_dit=None, offload_planner=None),
        "ACESTEP_LM_OFFLOAD_TO_CPU": replace(wishes, offload_planner=None),
        "ACESTEP_VAE_DECODE_CHUNK_SIZE": replace(wishes, tile=None),
        "ACESTEP_INIT_LLM": replace(wishes, planner=False),
    }
    for variable, looser in loosened.items():
        enough = least(situation.options(sizes, looser))
        if looser != wishes and enough <= budget.size:
            value = _value(variable, wishes)
            allowed = f"{_other(variable)}, which takes {gb(enough)}; with {value} {there}"
            return SettingError(variable, value, allowed)
    if device.quantization == "none":
        packed = replace(situation, device=replace(device, quantization="int8"))
        enough = least(packed.options(sizes, wishes))
        if enough <= budget.size:
            allowed = f"int8, which takes {gb(enough)} (songs change a little); with none {there}"
            return SettingError(VARIABLE, "none", allowed)
    names = ", ".join([dit.name for dit in sizes.dits] + [planner.name for planner in sizes.planners])
    if budget.source == BUDGET:
        return SettingError(
            BUDGET, f"{budget.size / GB:g}", f"{-(-needed * 10 // GB) / 10:g} GB or more for {names}"
        )
    return ModelUnavailableError(
        f"{names}: at least {gb(needed)} of GPU memory are needed, and there are {budget}. "
        f"Set ACESTEP_DEVICE=cpu, or ACESTEP_CONFIG_PATH to a smaller model."
    )


def _smaller_planner(sizes: Sizes, wishes: Wishes, situation: Situation) -> tuple[str, int] | None:
    """The largest published planner that would fit in place of the one that does not, and its bytes."""
    for planner in reversed(PLANNERS):
        if wishes.planner and planner.weights < sizes.planners[0].weights:
            enough = least(situation.options(replace(sizes, planners=(planner,)), wishes))
            if enough <= (situation.budget.size or 0):
                return planner.name, enough
    return None


def _value(variable: str, wishes: Wishes) -> str:
    if variable == "ACESTEP_VAE_DECODE_CHUNK_SIZE":
        return str(wishes.tile)
    return "true" if variable == "ACESTEP_INIT_LLM" else "false"


def _other(variable: str) -> str:
    return "false" if variable == "ACESTEP_INIT_LLM" else "auto"
