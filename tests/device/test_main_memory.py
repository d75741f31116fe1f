"""What main memory is available, by files as Linux has them."""

from pathlib import Path

import pytest

from acestep.device.main_memory import available_memory

MACHINE = {"proc/meminfo": "MemTotal:  8000000 kB\nMemAvailable:    6000000 kB\n"}
V2 = {
    "proc/self/cgroup": "0::/box/inner\n",
    "sys/fs/cgroup/box/inner/memory.max": "max\n",
    "sys/fs/cgroup/box/inner/memory.current": "900000000\n",
    "sys/fs/cgroup/box/memory.max": "2000000000\n",
    "sys/fs/cgroup/box/memory.current": "1500000000\n",
    "sys/fs/cgroup/box/memory.stat": "anon 1000\ninactive_file 400000000\n",
}
# In a container the path is the host's, and the group is the root.
V1 = {
    "proc/self/cgroup": "4:cpu,cpuacct:/x\n3:memory:/docker/4711\n0::/\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "3000000000\n",
    "sys/fs/cgroup/memory/memory.usage_in_bytes": "1000000000\n",
    "sys/fs/cgroup/memory/memory.stat": "inactive_file 1\ntotal_inactive_file 250000000\n",
}
NO_LIMIT = V1 | {"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}
FULL = V1 | {"sys/fs/cgroup/memory/memory.usage_in_bytes": "3300000000\n"}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (MACHINE, 6_144_000_000),
        (MACHINE | V2, 900_000_000),
        (MACHINE | V1, 2_250_000_000),
        (MACHINE | NO_LIMIT, 6_144_000_000),
        (MACHINE | FULL, 0),
        ({**V1}, 2_250_000_000),
    ],
    ids=["machine", "v2, outer group", "v1, container", "no limit", "used up", "no meminfo"],
)
def test_the_least_that_is_left(files: dict[str, str], expected: int, tmp_path: Path) -> None:
    for name, text in files.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    assert available_memory(tmp_path) == expected


def test_where_the_system_does_not_say_all_memory_counts(tmp_path: Path) -> None:
    there = available_memory(tmp_path)
    assert there is not None and there > 2**28
