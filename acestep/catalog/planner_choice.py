"""Which planner to load, or why none. Reads folders, never weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from acestep.catalog.checkpoints import NANO_MODEL, PUBLISHED, find_folder, is_whole, missing_files
from acestep.device import probes
from acestep.errors import CheckpointError

NANO_PLANNER = "acestep-nano-lm"
NANO_PLANNER_FOLDER = Path(__file__).resolve().parents[1] / "nano" / NANO_PLANNER
SMALLEST = "acestep-5Hz-lm-0.6B"
_TO_HAVE_IT = "set it to true and start again, or send POST /v1/init with init_llm=true."
# The original's tiers, which hold where no memory plan can be made: GB of GPU memory from which a planner is
# the default beside a DiT of 2 B.
_BY_MEMORY = ((24.5, "acestep-5Hz-lm-4B"), (12.5, "acestep-5Hz-lm-1.7B"))
_LARGEST_FIRST = (*(name for _, name in _BY_MEMORY), SMALLEST)

Planned = Callable[[str], str | None]
"""The default planner by the memory plan ("": none), given that of the tiers; None: no plan can say."""


@dataclass(frozen=True, slots=True)
class PlannerWish:
    """The settings: `init` None is auto, `name` None the default; `dit` is the name of the default model."""

    init: bool | None
    name: str | None
    dit: str
    checkpoints_dir: Path


@dataclass(frozen=True, slots=True)
class PlannerChoice:
    """The planner to load. No `name`: none, as `detail` explains; no `folder`: it must be downloaded."""

    name: str = ""
    folder: Path | None = None
    detail: str = ""
    only_if_needed: bool = False


def _no_plan(_documented: str) -> None:
    return None


def choose_planner(
    wish: PlannerWish,
    gpu_memory: Callable[[], float],
    hub_reachable: Callable[[], bool],
    planned: Planned = _no_plan,
) -> PlannerChoice:
    """Choose; the probes (GB of the GPU, 0 for none) are asked only if needed.

    Raises CheckpointError with a remedy for a planner that was asked for and is unavailable; with auto there
    is none then. Without a name, the largest that fits and is on disk comes before a download.
    """
    gpu_memory = cache(gpu_memory)  # starts a process
    planned = cache(planned)  # so does this, and compares many plans
    if wish.init is False:
        return PlannerChoice(detail=f"ACESTEP_INIT_LLM is off; {_TO_HAVE_IT}")
    if wish.init is None and wish.dit != NANO_MODEL and not _has_room(wish, gpu_memory(), planned):
        memory = gpu_memory()
        reason = f"no room for one on a GPU of {memory:.0f} GB" if memory else "no GPU"
        return PlannerChoice(detail=f"ACESTEP_INIT_LLM is auto, and found {reason}; {_TO_HAVE_IT}")
    try:
        names = _candidates(wish, gpu_memory, planned)
        found = _first_to_be_had(names, wish.checkpoints_dir, hub_reachable)
    except CheckpointError as error:
        if wish.init:
            raise
        return PlannerChoice(detail=str(error))
    # Songs are no truer to what was asked with nano's (decision 0007), and take longer.
    aside = wish.init is None and wish.name is None and wish.dit == NANO_MODEL
    return replace(found, only_if_needed=aside)


def find_planner(name: str, checkpoints_dir: Path) -> PlannerChoice | None:
    """The planner of this name, if there is one. Raises CheckpointError if it is incomplete."""
    folder = _find(name, checkpoints_dir)
    return None if folder is None else PlannerChoice(folder.name, folder)


def on_disk(checkpoints_dir: Path) -> tuple[str, ...]:
    """The complete published planners."""
    published = (each for each in PUBLISHED.values() if each.kind == "planner")
    return tuple(each.name for each in published if is_whole(each, checkpoints_dir))


def gpu_memory_gb() -> float:
    """GB of the first NVIDIA GPU; 0 if unknown."""
    return (probes.memory_mib("total") or 0.0) / 1024


def _has_room(wish: PlannerWish, memory: float, planned: Planned) -> bool:
    # Whether there is a default planner; whether a named one fits is decided by its plan.
    by_plan = planned(_documented(memory))
    if by_plan is None:
        return memory >= _BY_MEMORY[-1][0]
    return bool(wish.name or by_plan)


def _candidates(wish: PlannerWish, gpu_memory: Callable[[], float], planned: Planned) -> tuple[str, ...]:
    if wish.name:
        return (wish.name,)
    if wish.dit == NANO_MODEL:
        return (NANO_PLANNER,)
    documented = _documented(gpu_memory())
    largest = planned(documented) or documented
    return _LARGEST_FIRST[_LARGEST_FIRST.index(largest) :]


def _documented(memory: float) -> str:
    return next((name for least, name in _BY_MEMORY if memory >= least), SMALLEST)


def _first_to_be_had(
    names: Sequence[str], checkpoints_dir: Path, hub_reachable: Callable[[], bool]
) -> PlannerChoice:
    for name in names:
        if folder := _find(name, checkpoints_dir):
            return PlannerChoice(Path(name).name, folder)
    for name in names:
        if _can_be_fetched(name, hub_reachable):
            return PlannerChoice(name)
    raise CheckpointError(f"There is no planner {names[0]!r}. {_how_to_get(names[0], checkpoints_dir)}")


def _find(name: str, checkpoints_dir: Path) -> Path | None:
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
