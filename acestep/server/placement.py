from __future__ import annotations

from collections.abc import Callable, Sequence

from acestep.device.gpus import GpuWatch, find_gpus, listing
from acestep.device.probes import device_name
from acestep.domain.devices import Gpu, Placement
from acestep.errors import SettingError
from acestep.settings.settings import Settings, documented, variable, visible_devices
from acestep.settings.types import mapped_gpus


def gpus() -> tuple[Gpu, ...]:
    """The CUDA devices of this process; asks the driver."""
    return find_gpus(visible_devices())


def gpu_watch() -> GpuWatch:
    return GpuWatch(gpus)


def list_gpus() -> str:
    return listing(gpus())


def place(settings: Settings, gpus: Callable[[], Sequence[Gpu]]) -> Settings:
    """The settings with the devices of ACESTEP_GPU_MAPPING; the GPUs are asked for only if it is set.

    Raises SettingError for a GPU that is not there.
    """
    mapping = settings.gpu_mapping
    if mapping is None:
        return settings
    found = gpus()
    numbers = mapped_gpus(mapping)
    if mapping == "auto":
        if len(found) < 2:
            return settings
        roomiest = sorted(found, key=lambda gpu: -gpu.free)
        numbers = {"dit": roomiest[0].number, "lm": roomiest[1].number}
    there = {gpu.number for gpu in found}
    if found and not set(numbers.values()) <= there:
        allowed = f"{documented('gpu_mapping')['allowed']}; there are the GPUs {sorted(there)}"
        raise SettingError(variable("gpu_mapping"), mapping, allowed)
    dit, planner = numbers["dit"], numbers.get("lm", numbers["dit"])
    own = None if planner == dit else f"cuda:{planner}"
    return settings.model_copy(update={"device": f"cuda:{dit}", "lm_device": own})


def placement(settings: Settings) -> Placement:
    """Where models of these settings run; GPUs are not looked at."""
    devices = [device_name(device) for device in settings.devices]
    planner = device_name(settings.lm_device) if settings.lm_device else ",".join(devices)
    return Placement(mapping=settings.gpu_mapping, dit=",".join(devices), planner=planner)
