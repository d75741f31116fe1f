"""The main memory that is available to this process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_ROOT = Path("/")

# Of the two versions of control groups: where their folders are, and the names of the limit, of what is used
# (files that are cached count), and of the cached files that the system drops first.
_V2 = ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file")
_V1 = ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def available_memory(root: Path = _ROOT) -> int | None:
    """Bytes that can be used without swapping: of the machine, or of the container if it has less.

    Where the system does not say (outside Linux), all main memory; None if that is unknown too.
    """
    found = _meminfo(root)
    if found is None:
        found = _all_memory()
    limits = list(_left_in_groups(root))
    return min(limits if found is None else [found, *limits], default=None)


def _meminfo(root: Path) -> int | None:
    for line in _read(root / "proc/meminfo").splitlines():
        name, _, amount = line.partition(":")
        if name == "MemAvailable":
            return int(amount.split()[0]) * 1024
    return None


def _all_memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on Windows
        return None


def _left_in_groups(root: Path) -> Iterator[int]:
    # What the limits of this process's control group leave, and those of the groups around it.
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory") or "memory" in controllers.split(","):
            folder, *names = _V1 if controllers else _V2
            inner = PurePosixPath(path.lstrip("/"))
            # In a container its own group is the root, whatever the path says.
            for group in dict.fromkeys([inner, *inner.parents]):
                yield from _left(root / folder / group, *names)


def _left(group: Path, limit: str, used: str, cached: str) -> Iterator[int]:
    most, now = _read(group / limit).strip(), _read(group / used).strip()
    if most.isdecimal() and now.isdecimal():  # a limit may be "max"
        statistics = dict(line.split(" ", 1) for line in _read(group / "memory.stat").splitlines())
        yield max(0, int(most) - int(now) + int(statistics.get(cached, 0)))


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return ""
