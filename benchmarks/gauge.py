"""What is measured of a device: its clock, its memory, and how fast that is read.

A CPU keeps no books of its memory: there, only the clock tells something.
"""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass

import torch

from acestep.memory.plan import GB

_COPIED = 2 * GB  # far more than any cache holds
_COPIES = 20


@dataclass(frozen=True, slots=True)
class Used:
    """Bytes of a device: the most that tensors took, the most that PyTorch had, and what is not free."""

    allocated: int
    reserved: int
    on_device: int


class Gauge:
    """Measures one device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._is_cuda = device.type == "cuda"
        self._idle = 0

    @property
    def name(self) -> str:
        """What the device calls itself."""
        return torch.cuda.get_device_name(self._device) if self._is_cuda else str(self._device)

    def now(self) -> float:
        """Seconds, once all that was asked of the device is done."""
        if self._is_cuda:
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def limit(self, size: int | None) -> None:
        """Let PyTorch have so many bytes and no more, as a smaller card would; None: all there are."""
        if self._is_cuda:
            total = torch.cuda.get_device_properties(self._device).total_memory
            fraction = 1.0 if size is None else min(1.0, size / total)
            torch.cuda.set_per_process_memory_fraction(fraction, self._device)

    def begin(self) -> None:
        """Count the most of memory from here on."""
        if self._is_cuda:
            torch.cuda.reset_peak_memory_stats(self._device)

    def used(self) -> Used | None:
        """Since `begin`; None on a CPU."""
        if not self._is_cuda:
            return None
        free, total = torch.cuda.mem_get_info(self._device)
        return Used(
            torch.cuda.max_memory_allocated(self._device),
            torch.cuda.max_memory_reserved(self._device),
            total - free,
        )

    def idle(self) -> None:
        """Remember what is in memory now as what must be there when nothing is."""
        self._idle = self._swept()

    def left(self) -> int:
        """Bytes in memory beyond those of `idle`, once all that nobody holds is gone."""
        return self._swept() - self._idle

    def _swept(self) -> int:
        gc.collect()
        if not self._is_cuda:
            return 0
        torch.cuda.synchronize(self._device)
        torch._C._cuda_clearCublasWorkspaces()  # a few MB for each stream that ever multiplied
        torch.cuda.empty_cache()
        return torch.cuda.memory_allocated(self._device)

    def bandwidth(self) -> float:
        """Bytes a second that are read or written while large memory is copied on the device."""
        size = _COPIED if self._is_cuda else _COPIED // 32
        source = torch.zeros(size, dtype=torch.uint8, device=self._device)
        goal = torch.empty_like(source)
        goal.copy_(source)
        started = self.now()
        for _ in range(_COPIES):
            goal.copy_(source)
        return 2 * size * _COPIES / (self.now() - started)
