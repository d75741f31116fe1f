"""The devices of this machine, found without importing torch."""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from acestep.device.main_memory import available_memory


def has_gpu(device: str) -> bool:
    """Whether a model would run on a GPU with this ACESTEP_DEVICE; only `auto` looks at the machine."""
    if device != "auto":
        return device != "cpu"
    if platform.system() == "Darwin":
        return platform.machine() == "arm64"
    if Path("/dev/nvidia0").exists():
        return True
    lister = shutil.which("nvidia-smi")
    if lister is None:
        return False
    try:
        listing = subprocess.run([lister, "-L"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return listing.returncode == 0 and "GPU 0" in listing.stdout


def device_name(wish: str) -> str:
    """The one name of the device that ACESTEP_DEVICE or ACESTEP_LM_DEVICE means: `cuda` is `cuda:0`."""
    if wish == "auto":
        gpu = "mps" if platform.system() == "Darwin" else "cuda:0"
        return gpu if has_gpu(wish) else "cpu"
    kind, _, number = wish.partition(":")
    return kind if kind in ("cpu", "mps") else f"{kind}:{number or 0}"


def memory_mib(kind: str, number: int = 0) -> float | None:
    """MiB of `kind` ("total", "free") memory on a GPU; None if unknown."""
    lister = shutil.which("nvidia-smi")
    if lister is None:
        return None
    query = [lister, f"--id={number}", f"--query-gpu=memory.{kind}", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, timeout=10, check=False).stdout
        return float(told.split()[0])
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError):
        return None


def cpu_flags(listing: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """What the CPU can do, as Linux calls it; empty elsewhere."""
    try:
        lines = listing.read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.partition(":")[2] for line in lines if line.startswith("flags")), "").split())


@dataclass(frozen=True, slots=True)
class Probes:
    """Bytes of memory, None if unknown: what is free on a GPU by its number, and in main memory."""

    gpu_free: Callable[[int], int | None]
    main_memory: Callable[[], int | None]
    has_vllm: Callable[[], bool] = lambda: find_spec("vllm") is not None
    cpu_flags: Callable[[], frozenset[str]] = frozenset


def gpu_free(number: int) -> int | None:
    mib = memory_mib("free", number)
    return None if mib is None else int(mib) * 2**20


PROBES = Probes(gpu_free, available_memory, cpu_flags=cpu_flags)
