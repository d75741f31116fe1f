"""What NVIDIA's driver says of its GPUs, asked without torch.

Owns the one command that asks it.
"""

from __future__ import annotations

import shutil
import subprocess


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
