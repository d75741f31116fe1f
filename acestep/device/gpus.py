from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Sequence

from acestep.domain.devices import Gpu

_QUERY = "--query-gpu=index,uuid,memory.total,memory.free,name"
_FRESH = 10.0  # seconds; asking the driver takes up to one


def find_gpus(chosen: str | None) -> tuple[Gpu, ...]:
    """The GPUs as the driver says, without those that CUDA_VISIBLE_DEVICES (`chosen`) leaves out."""
    lister = shutil.which("nvidia-smi")
    if lister is None:
        return ()
    command = [lister, _QUERY, "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return visible(told, chosen)


def visible(listing: str, chosen: str | None) -> tuple[Gpu, ...]:
    """The GPUs of a listing of nvidia-smi, numbered as CUDA does with this CUDA_VISIBLE_DEVICES."""
    rows = [
        row for line in listing.splitlines() if len(row := [part.strip() for part in line.split(",", 4)]) == 5
    ]
    if chosen is not None:
        wanted = [word.strip() for word in chosen.split(",")]
        rows = [
            row for word in wanted for row in rows if word and (word == row[0] or row[1].startswith(word))
        ]
    try:
        return tuple(
            Gpu(number, name, float(total), float(free))
            for number, (_, _, total, free, name) in enumerate(rows)
        )
    except ValueError:  # "[N/A]"
        return ()


class GpuWatch:
    """The GPUs with their free memory, at most ten seconds old, without waiting for the driver."""

    def __init__(
        self, read: Callable[[], tuple[Gpu, ...]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._read = read
        self._clock = clock
        self._lock = threading.Lock()  # held while the driver is asked
        self._latest: tuple[Gpu, ...] = ()
        self._read_at = float("-inf")

    def refresh(self) -> None:
        with self._lock:
            self._latest = self._read()
            self._read_at = self._clock()

    def latest(self) -> tuple[Gpu, ...]:
        if self._clock() - self._read_at > _FRESH and not self._lock.locked():
            threading.Thread(target=self.refresh, name="gpu-memory", daemon=True).start()
        return self._latest


def listing(found: Sequence[Gpu]) -> str:
    lines = [f"cuda:{gpu.number}  {gpu.name}  {gpu.free:.0f} of {gpu.total:.0f} MiB free" for gpu in found]
    return "\n".join(lines or ["No CUDA device was found (nvidia-smi lists none)."])
