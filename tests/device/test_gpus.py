from __future__ import annotations

import threading

import pytest

from acestep.device.gpus import GpuWatch, listing, visible
from acestep.domain.devices import Gpu

TOLD = (
    "0, GPU-aaa, 24576, 1024, NVIDIA GeForce RTX 3090\n"
    "1, GPU-bbb, 24576, 24000, NVIDIA GeForce RTX 3090\n"
    "2, GPU-ccc, 81559, 81000, NVIDIA H100\n"
)
FIRST, SECOND = "NVIDIA GeForce RTX 3090", "NVIDIA H100"


@pytest.mark.parametrize(
    ("chosen", "free"),
    [
        (None, [1024, 24000, 81000]),
        ("2,0", [81000, 1024]),
        ("GPU-bbb", [24000]),
        ("1, 7", [24000]),
        ("", []),
        ("-1", []),
    ],
)
def test_the_gpus_are_numbered_as_cuda_does(chosen: str | None, free: list[float]) -> None:
    found = visible(TOLD, chosen)
    assert [gpu.free for gpu in found] == free
    assert [gpu.number for gpu in found] == list(range(len(free)))


@pytest.mark.parametrize("told", ["", "No devices were found", "0, GPU-aaa, [N/A], 1, x"])
def test_what_the_driver_does_not_say(told: str) -> None:
    assert visible(told, None) == ()


def test_the_list_of_the_command_line() -> None:
    assert listing([Gpu(0, FIRST, 24576, 1024)]) == f"cuda:0  {FIRST}  1024 of 24576 MiB free"
    assert listing([]) == "No CUDA device was found (nvidia-smi lists none)."


def test_free_memory_is_asked_for_again_after_ten_seconds() -> None:
    now, asked, free = [0.0], threading.Event(), [5.0]

    def read() -> tuple[Gpu, ...]:
        asked.set()
        return (Gpu(0, SECOND, 10.0, free[0]),)

    watch = GpuWatch(read, lambda: now[0])
    watch.refresh()
    asked.clear()
    free[0], now[0] = 3.0, 9.0
    assert watch.latest()[0].free == 5.0 and not asked.is_set()
    now[0] = 11.0
    watch.latest()
    assert asked.wait(10)
