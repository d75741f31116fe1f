"""How much memory this machine has, and what is installed that does not share it; asked without torch.

Owns the commands and files that say so. Everything in bytes; None where nobody says.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from acestep import gpus

_CGROUP = Path("/sys/fs/cgroup/memory.max")  # what a container may have


@dataclass(frozen=True, slots=True)
class Probes:
    """How to ask the machine, in bytes; None where it does not say. The GPU is asked by its number.

    `has_vllm`: whether vLLM is installed, whose planner stays where it is.
    """

    gpu_free: Callable[[int], int | None]
    main_memory: Callable[[], int | None]
    has_vllm: Callable[[], bool] = lambda: find_spec("vllm") is not None


def gpu_free(number: int) -> int | None:
    """What is free on NVIDIA GPU `number`; None where there is none, or its driver does not say."""
    mib = gpus.memory_mib("free", number)
    return None if mib is None else int(mib) * 2**20


def main_memory() -> int | None:
    """All of it, used or not: what is idle makes way."""
    try:
        there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on Windows
        return None
    try:
        return min(there, int(_CGROUP.read_text(encoding="ascii")))
    except (OSError, ValueError):  # none, or "max"
        return there


PROBES = Probes(gpu_free, main_memory)
