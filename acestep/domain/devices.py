from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Gpu:
    """A CUDA device by its number among those that this process sees; memory in MiB."""

    number: int
    name: str
    total: float
    free: float


@dataclass(frozen=True, slots=True)
class Placement:
    """Where models run, by the names of devices; several are separated by commas."""

    gpus: tuple[Gpu, ...] = ()
    mapping: str | None = None  # ACESTEP_GPU_MAPPING
    dit: str = "cpu"
    planner: str = "cpu"
