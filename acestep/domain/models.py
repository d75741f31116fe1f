"""."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from acestep.domain.song import MAX_BATCH, MAX_DURATION, TaskType

if TYPE_CHECKING:
    pass


# "on_disk" is not in memory, but comes there when a request names it; "absent" never does.
ModelState = Literal["absent", "on_disk", "downloading", "loading", "ready", "failed"]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What the server knows of one DiT: enough to check a request before the weights are loaded.

    `steps`, `guidance_scale` and `shift` are the checkpoint's defaults; `max_*` what this machine and
    this model allow. `notice` is what people must be told about the model (nano says that it is nano),
    `detail` says how far loading is, or why it failed. `code_count` is the size of the model's book of audio
    codes; 0: not known yet. `layers` are the shapes of the weights that adapters may sit on, by the layer's
    name; empty: not known yet. `comes_when_wanted`: it can be used though it may be out of memory, which a
    request brings it into.
    """

    name: str
    is_turbo: bool
    steps: int
    guidance_scale: float
    shift: float
    max_steps: int
    max_duration: float = MAX_DURATION
    max_batch: int = MAX_BATCH
    tasks: tuple[TaskType, ...] = ("text2music",)
    is_default: bool = False
    state: ModelState = "loading"
    detail: str = ""
    notice: str = ""
    code_count: int = 0
    layers: Mapping[str, tuple[int, ...]] = field(default_factory=dict, repr=False, hash=False)
    loads_on_demand: bool = False


@dataclass(frozen=True, slots=True)
class PlannerInfo:
    """What the server knows of its planner. `detail` says why it is absent or failed, and what to set.

    `comes_when_wanted` as `ModelInfo` has it. `only_if_needed`: it does what cannot be done without it, and
    fills in nothing else.
    """

    name: str = ""
    state: ModelState = "absent"
    detail: str = ""
    backend: str = ""
    loads_on_demand: bool = False
    only_if_needed: bool = False

    @property
    def is_usable(self) -> bool:
        """Whether requests for it can be accepted: it is there, on its way, or comes when it is wanted."""
        return self.state in ("ready", "loading", "downloading", "on_disk")

    @property
    def fills_in(self) -> bool:
        """Whether it completes captions of requests that could do without it."""
        return self.is_usable and not self.only_if_needed
