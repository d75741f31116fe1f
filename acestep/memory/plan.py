"""The memory plan: the placement of every model, and how large requests may be, within a budget."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from acestep.memory.number_formats import NumberFormats
from acestep.memory.sizes import DitSize, QwenSize, Stored, VaeSize
from acestep.settings.types import Quantization

GB = 2**30
Placement = Literal["resident", "offloaded", "streamed"]
Stage = Literal["write", "read", "condition", "render", "decode"]
STAGES: tuple[Stage, ...] = get_args(Stage)

# CUDA's context with its kernels, and the libraries' workspaces: 0.45 GB on cards seen, rounded up.
GPU_RESERVE = GB // 2
CPU_RESERVE = GB  # Python, torch and the server itself


@dataclass(frozen=True, slots=True)
class Abilities:
    """Which placements a version of the program can carry out."""

    offload: bool = False
    stream: bool = False
    offload_planner: bool = False


@dataclass(frozen=True, slots=True)
class Sizes:
    """All DiTs in memory, and the text encoder and VAE that they share."""

    dits: tuple[DitSize, ...]
    text: QwenSize
    vae: VaeSize | None
    planners: tuple[QwenSize, ...] = ()  # to choose from; the smallest first
    adapters: int = 0  # weights of the adapters that each DiT may have in memory


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the settings ask for; None: the plan decides."""

    offload: bool | None = None  # what is neither DiT nor planner
    offload_dit: bool | None = None
    offload_planner: bool | None = None
    tile: int | None = None
    planner: bool | None = None  # whether there must be one


@dataclass(frozen=True, slots=True)
class Device:
    """`reserve`: bytes used before any model is loaded;
    `cache_block`: tokens by which the planner's cache grows.

    `quantization` is that of the matrices in layers of DiT and planner.
    """

    formats: NumberFormats = field(default_factory=NumberFormats)
    reserve: int = GPU_RESERVE
    cache_block: int = 1024
    is_cpu: bool = False
    quantization: Quantization = "none"

    @classmethod
    def cpu(cls, formats: NumberFormats) -> Device:
        return cls(formats=formats, reserve=CPU_RESERVE, cache_block=32, is_cpu=True)

    def stored(self, width: int) -> Stored:
        return Stored(self.formats.bytes_of(width), self.quantization)


@dataclass(frozen=True, slots=True)
class PlanPart:
    """A row of the plan, in bytes: `held` is what is on the device at the peak."""

    name: str
    placement: Placement
    size: int
    held: int


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """`peak` is the sum of what `parts` hold, reached in `stage`.

    `planner` is "" for none; its cache has `sequences` texts of `length` tokens.
    """

    parts: tuple[PlanPart, ...]
    stage: Stage
    peak: int
    max_batch: int
    max_duration: float
    tile: int
    planner: str = ""
    sequences: int = 0
    length: int = 0
    quantization: Quantization = "none"
    adapter_room: int | None = None  # bytes of the adapters of one DiT; None: as many as there are

    def placement(self, name: str) -> Placement:
        return next(part.placement for part in self.parts if part.name == name)

    @property
    def planner_load(self) -> tuple[object, ...]:
        return (self.planner, self.planner and self.placement("planner"), self.sequences, self.length)
