"""How many songs a server makes: the same load on any that speaks `/release_task`.

    uv run python -m benchmarks.serve --url http://127.0.0.1:8001 [--clients 1 4 16] [--seconds 10 60 240]
        [--songs 8] [--thinking] [--key K] [--pid P] [--json serve.json] [--png serve.png]

Each client sends a song, waits for it, and sends the next. For every number of clients and every length:
songs an hour, median and 95th percentile of the waiting times, the mean seconds of each stage, and with --pid
the memory of the server's process.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import psutil
from rich.console import Console
from rich.table import Table

_POLL = 0.1  # seconds between two looks at a song
_MB = 2**20


@dataclass(frozen=True, slots=True)
class Made:
    """A song: the seconds that its client waited, and those of its stages."""

    waited: float
    stages: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Load:
    clients: int
    seconds: float
    songs_an_hour: float
    p50: float
    p95: float
    stages: Mapping[str, float]
    megabytes: float | None = None


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--url", required=True)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--seconds", type=float, nargs="+", default=[10.0, 60.0, 240.0])
    parser.add_argument("--songs", type=int, default=8, help="songs of each client number and length")
    parser.add_argument("--format", default="mp3")
    parser.add_argument("--thinking", action="store_true")
    parser.add_argument("--key", default="")
    parser.add_argument("--pid", type=int, help="the server's process, for its memory")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--png", type=Path)
    given = parser.parse_args()
    headers = {"Authorization": f"Bearer {given.key}"} if given.key else {}
    body = {"prompt": "calm piano", "lyrics": "[Instrumental]", "batch_size": 1, "audio_format": given.format}
    body |= {"thinking": given.thinking}
    found = []
    with httpx.Client(base_url=given.url, headers=headers, timeout=60) as client:
        for seconds in given.seconds:
            make(client, {**body, "audio_duration": seconds})  # the first of a length is slower
            for clients in given.clients:
                started = time.perf_counter()
                with ThreadPoolExecutor(clients) as pool:
                    bodies = [{**body, "audio_duration": seconds, "seed": n} for n in range(given.songs)]
                    songs = list(pool.map(lambda each: make(client, each), bodies))
                megabytes = psutil.Process(given.pid).memory_info().rss / _MB if given.pid else None
                found.append(summary(clients, seconds, songs, time.perf_counter() - started, megabytes))
    Console(width=130).print(table(found))
    if given.json:
        given.json.write_text(json.dumps([asdict(load) for load in found], indent=1))
    if given.png:
        draw(found, given.png)


def make(client: httpx.Client, body: Mapping[str, object]) -> Made:
    """Send one song and wait for it. Raises RuntimeError if it fails."""
    started = time.perf_counter()
    sent = client.post(
        "/release_task", json={"use_random_seed": "seed" not in body, **body}
    ).raise_for_status()
    task = sent.json()["data"]["task_id"]
    while True:
        (entry,) = client.post("/query_result", json={"task_id_list": [task]}).json()["data"]
        if entry["status"]:
            break
        time.sleep(_POLL)
    result = json.loads(entry["result"])[0]
    if entry["status"] != 1:
        raise RuntimeError(f"{task} failed: {result.get('error')}")
    return Made(time.perf_counter() - started, result.get("timings", {}))


def summary(
    clients: int, seconds: float, songs: Sequence[Made], took: float, megabytes: float | None = None
) -> Load:
    """What `songs` of one load say, which took so many seconds together."""
    waited, stages = sorted(song.waited for song in songs), defaultdict[str, list[float]](list)
    for song in songs:
        for stage, spent in song.stages.items():
            stages[stage].append(spent)
    return Load(
        clients=clients,
        seconds=seconds,
        songs_an_hour=3600 * len(songs) / took,
        p50=waited[(len(waited) - 1) // 2],
        p95=waited[-(-95 * len(waited) // 100) - 1],
        stages={stage: sum(spent) / len(spent) for stage, spent in stages.items()},
        megabytes=megabytes,
    )


def table(loads: Iterable[Load]) -> Table:
    """A row a load."""
    made = Table("clients", "song", "songs an hour", "p50", "p95", "mean of the stages", "MB")
    for load in loads:
        stages = ", ".join(f"{stage} {spent:.2f}" for stage, spent in load.stages.items())
        numbers = (
            f"{load.seconds:g} s",
            f"{load.songs_an_hour:.0f}",
            f"{load.p50:.1f} s",
            f"{load.p95:.1f} s",
        )
        made.add_row(str(load.clients), *numbers, stages, f"{load.megabytes:.0f}" if load.megabytes else "")
    return made


def draw(loads: Sequence[Load], file: Path) -> None:
    """Songs an hour by clients, a line for each length."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4))
    axes = figure.subplots()
    for seconds in dict.fromkeys(load.seconds for load in loads):
        line = [(load.clients, load.songs_an_hour) for load in loads if load.seconds == seconds]
        axes.plot(*zip(*line, strict=True), marker="o", label=f"{seconds:g} s")
    axes.set(xlabel="clients", ylabel="songs an hour", ylim=(0, None))
    axes.legend()
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    main()
