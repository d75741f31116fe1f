"""What the server knows of its models before they are loaded, and which of them runs a request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from acestep.domain.song import MAX_BATCH, MAX_DURATION, TaskType
from acestep.errors import ModelUnavailableError, UnknownModelError

NAME_PREFIX = "acestep/"  # OpenAI-style model lists put it before every name

# "on_disk" is not in memory, but is loaded when a request names it; "absent" only if it `loads_on_demand`.
ModelState = Literal["absent", "on_disk", "downloading", "loading", "ready", "failed"]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A DiT: enough to check a request before the weights are loaded."""

    name: str
    is_turbo: bool
    # The defaults of the checkpoint.
    steps: int
    guidance_scale: float
    shift: float
    # What this machine and this model allow.
    max_steps: int
    max_duration: float = MAX_DURATION
    max_batch: int = MAX_BATCH
    tasks: tuple[TaskType, ...] = ("text2music",)
    is_default: bool = False
    state: ModelState = "loading"
    detail: str = ""  # how far loading is, or why it failed
    notice: str = ""  # told to all users of the model: nano says that it is nano
    code_count: int = 0  # number of different audio codes; 0: not known yet
    dtype: str = ""  # what it computes in, and its matrices if they are quantized; empty: not known yet
    # Shapes of the weights that adapters may change, by the layer's name; empty: not known yet.
    layers: Mapping[str, tuple[int, ...]] = field(default_factory=dict, repr=False, hash=False)
    loads_on_demand: bool = False  # it may be out of memory; a request loads it

    @property
    def is_usable(self) -> bool:
        """Whether a request that names it waits for it; for a download only of what is loaded on demand."""
        downloads = self.loads_on_demand and self.state in ("absent", "downloading")
        return downloads or self.state in ("ready", "loading", "on_disk")


@dataclass(frozen=True, slots=True)
class PlannerInfo:
    name: str = ""
    state: ModelState = "absent"
    detail: str = ""  # why it is absent or failed, and what to set
    backend: str = ""
    loads_on_demand: bool = False
    only_if_needed: bool = False  # it does what cannot be done without it, and fills in nothing else

    @property
    def is_usable(self) -> bool:
        """Whether a request that needs it waits for it, even for a download."""
        return self.state in ("ready", "loading", "downloading", "on_disk")

    @property
    def fills_in(self) -> bool:
        """Whether it completes captions of requests that could do without it."""
        return self.is_usable and not self.only_if_needed


def can_serve(model: ModelInfo | PlannerInfo) -> bool:
    """Whether the next request can be served, now or once the model is loaded for it."""
    return model.state == "ready" or (model.loads_on_demand and model.state != "failed")


def choose_model(
    models: Sequence[ModelInfo], name: str | None, strict: bool
) -> tuple[ModelInfo, tuple[str, ...]]:
    """Return the model that runs a request for `name`, and warnings. None means the default.

    A name that is not usable runs the default, or raises `UnknownModelError` if `strict`. Raises
    `ModelUnavailableError` if the default would run and could not be loaded, and if there is no model.
    """
    if not models:
        raise ModelUnavailableError("No model is set up on this server: set ACESTEP_CONFIG_PATH.")
    default, warnings = default_model(models), tuple[str, ...]()
    bare = default.name if name is None else name.removeprefix(NAME_PREFIX)
    if name is not None and bare != default.name:
        usable = {model.name: model for model in models if model.is_usable}
        if bare in usable:
            return usable[bare], ()
        error = UnknownModelError(name, tuple(key for key in usable if usable[key].state != "absent"))
        if strict:
            raise error
        broken = [model for model in models if (model.name, model.state) == (bare, "failed")]
        told = [f"model: {model.name} could not be loaded: {model.detail.rstrip('.')}" for model in broken]
        warnings = (f"{(*told, error)[0]}. {default.name} is used instead",)
    if default.state == "failed":
        failed = [model for model in models if model.state == "failed" and model.name == bare]
        reasons = {each.name: each.detail.rstrip(".") for each in (*failed, default)}
        raise ModelUnavailableError(
            "; ".join(f"{model} could not be loaded: {reason}" for model, reason in reasons.items())
        )
    return default, warnings


def default_model(models: Sequence[ModelInfo]) -> ModelInfo:
    """The model that runs when a request names none; `models` must not be empty."""
    return next((model for model in models if model.is_default), models[0])
