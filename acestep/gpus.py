"""Which GPUs this machine has, asked without torch.

Owns what `auto` means as a device, and the command that asks NVIDIA's driver.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path


def gpu_present(device: str) -> bool:
    """Whether a model would run on a GPU, told without importing torch.

    `device` is ACESTEP_DEVICE: only `auto` looks at the machine.
    """
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


def device_meant(wish: str) -> str:
    """The device that ACESTEP_DEVICE or ACESTEP_LM_DEVICE means, always spelled alike: `cuda` is `cuda:0`."""
    if wish == "auto":
        gpu = "mps" if platform.system() == "Darwin" else "cuda:0"
        return gpu if gpu_present(wish) else "cpu"
    kind, _, number = wish.partition(":")
    return kind if kind in ("cpu", "mps") else f"{kind}:{number or 0}"


def memory_mib(kind: str, number: int = 0) -> float | None:
    """MiB of `kind` ("total", "free") memory on a GPU; None without one, or if its driver does not say."""
    lister = shutil.which("nvidia-smi")
    if lister is None:
        return None
    query = [lister, f"--id={number}", f"--query-gpu=memory.{kind}", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, timeout=10, check=False).stdout
        return float(told.split()[0])
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError):
        return None
