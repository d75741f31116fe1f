"""How long a submission takes while the engine is busy.

    uv run python -m benchmarks.submit [--submits 500]

The server renders long songs all the while; beside the submissions stands a bare fsync on the same disk,
which is what durability costs at least.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.live_server import LiveServer

_BUSY = {"prompt": "piano", "audio_duration": 240, "inference_steps": 200, "guidance_scale": 7}
_SONG = {"prompt": "upbeat piano pop", "lyrics": "[Verse]\nla la la", "audio_duration": 30}


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--submits", type=int, default=500)
    count = parser.parse_args().submits
    with tempfile.TemporaryDirectory() as folder:
        with LiveServer(Path(folder) / "data", {"ACESTEP_QUEUE_MAXSIZE": "0"}) as server:
            server.wait_ready()
            server.wait_for([server.submit(**(_SONG | {"batch_size": 1}))])
            idle = timed(lambda: server.client.get("/health"), count)
            server.submit(**_BUSY)
            submits = timed(lambda: server.submit(**_SONG), count)
            queries = timed(lambda: server.query(["unknown"]), count)
            assert server.process is not None
            server.kill()  # hours of songs are queued by now
        with (Path(folder) / "probe").open("wb") as probe:
            fsyncs = timed(lambda: synced(probe.fileno()), count)
    table = Table("milliseconds", "p50", "p99", "max")
    for name, seconds in (
        ("POST /release_task, engine busy", submits),
        ("POST /query_result, engine busy", queries),
        ("GET /health, engine idle", idle),
        ("a bare fsync of 4 KiB", fsyncs),
    ):
        table.add_row(name, *(f"{1000 * value:.2f}" for value in percentiles(seconds)))
    Console().print(table)


def timed(call: Callable[[], object], count: int) -> list[float]:
    """Seconds of each of `count` calls, one after the other."""
    seconds = []
    for _ in range(count):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return seconds


def synced(descriptor: int) -> None:
    """Write 4 KiB and wait for the disk."""
    os.pwrite(descriptor, b"x" * 4096, 0)
    os.fsync(descriptor)


def percentiles(seconds: Sequence[float]) -> tuple[float, float, float]:
    """Median, 99th percentile and maximum."""
    ordered = sorted(seconds)
    return ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.99)], ordered[-1]


if __name__ == "__main__":
    main()
