from __future__ import annotations

from pydantic import BaseModel, Field

from acestep.domain.devices import Gpu, Placement
from acestep.domain.models import PlannerInfo


class GpuItem(BaseModel):
    index: int = Field(description="N of cuda:N.")
    logical_index: int
    name: str
    total_vram_gb: float
    free_vram_gb: float = Field(description="At most ten seconds old.")


class DeviceMap(BaseModel):
    dit: str
    vae: str
    text_encoder: str
    lm: str | None
    summary: str
    multi_device: bool


class Devices(BaseModel):
    gpus: list[GpuItem]
    gpu_mapping: str | None = Field(description="ACESTEP_GPU_MAPPING.")
    device_map: DeviceMap


def devices(placement: Placement, planner: PlannerInfo) -> Devices:
    dit, lm = placement.dit, placement.planner if planner.name else None
    parts = {"dit": dit, "vae": dit, "text_encoder": dit, **({"lm": lm} if lm else {})}
    return Devices(
        gpus=[_gpu(gpu) for gpu in placement.gpus],
        gpu_mapping=placement.mapping,
        device_map=DeviceMap(
            dit=dit,
            vae=dit,
            text_encoder=dit,
            lm=lm,
            summary=", ".join(f"{part}:{device.removeprefix('cuda:')}" for part, device in parts.items()),
            multi_device=len({*dit.split(","), *(lm or dit).split(",")}) > 1,
        ),
    )


def _gpu(gpu: Gpu) -> GpuItem:
    total, free = (round(mib / 1024, 2) for mib in (gpu.total, gpu.free))
    return GpuItem(
        index=gpu.number, logical_index=gpu.number, name=gpu.name, total_vram_gb=total, free_vram_gb=free
    )
