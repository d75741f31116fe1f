"""Which planner to load, or why none.

Owns the rule behind ACESTEP_INIT_LLM and ACESTEP_LM_MODEL_PATH, and which language models fit a GPU. Reads
folders, never weights; knows nothing of torch, HTTP or the environment.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from acestep import gpus
from acestep.checkpoints import NANO_MODEL, PUBLISHED, find_folder, missing_files
from acestep.errors import CheckpointError

NANO_PLANNER = "acestep-nano-lm"
NANO_PLANNER_FOLDER = Path(__file__).resolve().parent / "nano" / NANO_PLANNER
SMALLEST = "acestep-5Hz-lm-0.6B"
_TO_HAVE_IT = "set it to true and start again, or send POST /v1/init with init_llm=true."
# GB of GPU memory from which a planner is loaded without being asked for, and the largest that fits beside
# a DiT of 2 B (the original's tiers).
_BY_MEMORY = ((24.5, "acestep-5Hz-lm-4B"), (12.5, "acestep-5Hz-lm-1.7B"))


@dataclass(frozen=True, slots=True)
class PlannerWish:
    """What the settings say: `init` None is auto, `name` None is whichever fits; `dit` is the DiT's name."""

    init: bool | None
    name: str | None
    dit: str
    checkpoints_dir: Path


@dataclass(frozen=True, slots=True)
class PlannerChoice:
    """The planner to load. No `name`: none, and `detail` says why; no `folder`: it must be downloaded.

    `only_if_needed` as `PlannerInfo` has it.
    """

    name: str = ""
    folder: Path | None = None
    detail: str = ""
    only_if_needed: bool = False


def choose_planner(
    wish: PlannerWish, gpu_memory: Callable[[], float], hub_reachable: Callable[[], bool]
) -> PlannerChoice:
    """Decide; the probes (GB of the GPU, 0 for none) are asked only when their answer matters.

    A planner that was asked for is found, downloaded, or CheckpointError says how to get it. With auto,
    what cannot be had is left out.
    """
    gpu_memory = cache(gpu_memory)  # asking starts a process
    if wish.init is False:
        return PlannerChoice(detail=f"ACESTEP_INIT_LLM is off; {_TO_HAVE_IT}")
    if wish.init is None and wish.dit != NANO_MODEL:
        memory = gpu_memory()
        if memory < _BY_MEMORY[-1][0]:
            found = f"a GPU of {memory:.0f} GB" if memory else "no GPU"
            return PlannerChoice(detail=f"ACESTEP_INIT_LLM is auto, and found {found}; {_TO_HAVE_IT}")
    name = wish.name or _fitting(wish.dit, gpu_memory)
    try:
        folder = _find(name, wish.checkpoints_dir)
        if folder or _can_be_fetched(name, hub_reachable):
            # Songs are no truer to what was asked with nano's (decision 0007), and take longer.
            aside = wish.init is None and wish.name is None and wish.dit == NANO_MODEL
            return PlannerChoice(Path(name).name, folder, only_if_needed=aside)
        raise CheckpointError(f"There is no planner {name!r}. {_how_to_get(name, wish.checkpoints_dir)}")
    except CheckpointError as error:
        if wish.init:
            raise
        return PlannerChoice(detail=str(error))


def gpu_memory_gb() -> float:
    """GB of the first NVIDIA GPU; 0 where there is none, or its driver does not say."""
    return (gpus.memory_mib("total") or 0.0) / 1024


def _fitting(dit: str, gpu_memory: Callable[[], float]) -> str:
    if dit == NANO_MODEL:
        return NANO_PLANNER
    memory = gpu_memory()
    return next((name for least, name in _BY_MEMORY if memory >= least), SMALLEST)


def _find(name: str, checkpoints_dir: Path) -> Path | None:
    """The planner's folder; None if there is none. Raises CheckpointError if it is not whole."""
    folder = find_folder(name, checkpoints_dir, NANO_PLANNER_FOLDER if name == NANO_PLANNER else None)
    if folder is None:
        return None
    if missing := missing_files(folder, tokenizer=True):
        raise CheckpointError(
            f"The planner in {folder} is incomplete; missing: {', '.join(missing)}. "
            f"{_how_to_get(name, checkpoints_dir)}"
        )
    return folder


def _can_be_fetched(name: str, hub_reachable: Callable[[], bool]) -> bool:
    return name in PUBLISHED and PUBLISHED[name].kind == "planner" and hub_reachable()


def _how_to_get(name: str, checkpoints_dir: Path) -> str:
    if name == NANO_PLANNER:
        return (
            f"It comes with this server as {NANO_PLANNER_FOLDER}: install the server again. "
            "To start without it, set ACESTEP_INIT_LLM=false."
        )
    if name in PUBLISHED and PUBLISHED[name].kind == "planner":
        return (
            f"`uv run acestep-download {name}` gets it; or copy its folder to {checkpoints_dir / name}. "
            "To start without it, set ACESTEP_INIT_LLM=false."
        )
    known = ", ".join(name for name, published in PUBLISHED.items() if published.kind == "planner")
    return f"Set ACESTEP_LM_MODEL_PATH to the folder of a planner, or to one of {known}."
