"""The memory plan: what is placed where, and how large requests may be, so that a budget holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from acestep.memory.sizes import DitSize, QwenSize, Stored, VaeSize
from acestep.settings.types import Quantization

GB = 2**30
Placement = Literal["resident", "offloaded", "streamed"]
Stage = Literal["write", "read", "condition", "render", "decode"]

_MODELS = ("text encoder", "condition encoder", "DiT", "VAE")
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
    """What is to be placed: all DiTs that are loaded, and the text encoder and VAE that they share."""

    dits: tuple[DitSize, ...]
    text: QwenSize
    vae: VaeSize | None
    planners: tuple[QwenSize, ...] = ()  # to choose from; the smallest first
    adapters: int = 0  # weights of the adapters that each DiT may have in memory


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the operator decided; None: as the plan likes."""

    offload: bool | None = None  # what is neither DiT nor planner
    offload_dit: bool | None = None
    offload_planner: bool | None = None
    tile: int | None = None
    planner: bool | None = None  # whether there must be one


@dataclass(frozen=True, slots=True)
class Device:
    """Where models run: bytes of a weight, what is used up before any is there, and the cache's span.

    `quantization` is how the matrices of the DiT's and the planner's layers are stored.
    """

    bytes_per_weight: int = 2
    reserve: int = GPU_RESERVE
    cache_block: int = 1024
    is_cpu: bool = False
    quantization: Quantization = "none"

    @classmethod
    def cpu(cls) -> Device:
        """Main memory: float32, and nowhere to move anything."""
        return cls(bytes_per_weight=4, reserve=CPU_RESERVE, cache_block=32, is_cpu=True)

    @property
    def stored(self) -> Stored:
        """How the weights are stored that can be packed."""
        return Stored(self.bytes_per_weight, self.quantization)


@dataclass(frozen=True, slots=True)
class Part:
    """A row of the plan: `size` is all its bytes, `held` those of them that lie on the device at the peak."""

    name: str
    placement: Placement
    size: int
    held: int


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """The decision. `peak` is the sum of what `parts` hold; `stage` is when that is.

    `planner` is "" where none fits or none is wanted. `slots` and `length` are the room of its cache.
    """

    parts: tuple[Part, ...]
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
        """Where the weights called `name` are."""
        return next(part.placement for part in self.parts if part.name == name)

    @property
    def settled(self) -> tuple[object, ...]:
        """What cannot change once models are loaded: where they are, the VAE's tile, and what they allow."""
        places = (self.placement(name) for name in _MODELS)
        return (*places, self.tile, self.max_batch, self.max_duration)

    @property
    def planner_load(self) -> tuple[object, ...]:
        """The planner, where it is, and its room."""
        return (self.planner, self.planner and self.placement("planner"), self.sequences, self.length)
