from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from acestep.device.oom import is_out_of_memory

HUGE = 10**15  # numbers: more than any machine can address


def raised(work: Callable[[], object]) -> Exception:
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        work()
    return caught.value


@pytest.mark.parametrize(
    "work",
    [lambda: torch.empty(HUGE), lambda: np.empty(HUGE), lambda: bytearray(HUGE)],
    ids=["torch", "numpy", "python"],
)
def test_what_allocators_say(work: Callable[[], object]) -> None:
    assert is_out_of_memory(raised(work))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("Tried to allocate 20.00 GiB."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("MPS backend out of memory (MPS allocated: 5.00 GB)"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
    ids=str,
)
def test_what_devices_say(error: Exception) -> None:
    assert is_out_of_memory(error)


def test_other_errors_are_others() -> None:
    shapes = raised(lambda: torch.zeros(2, 3) @ torch.zeros(2, 3))
    assert not is_out_of_memory(shapes)
    assert not is_out_of_memory(ValueError("out of memory"))
