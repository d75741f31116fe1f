"""How long it takes to cancel a song, by the stage that it is in; and whether the next song is what it was.

`python -m benchmarks.cancels --url http://127.0.0.1:8001 --count 200` asks a server at work on nothing else.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import time
from collections import defaultdict
from statistics import median, quantiles
from typing import Any

import httpx

SONG = {"prompt": "upbeat piano pop", "audio_duration": 20, "batch_size": 2, "seed": 7, "audio_format": "wav"}
POLL_SECONDS = 0.02


def made(client: httpx.Client, **fields: Any) -> tuple[str, float]:
    """The hash of a song's audio, and the seconds that it took."""
    started = time.perf_counter()
    job = client.post("/v1/music/generate", json={**SONG, **fields}).raise_for_status().json()["job_id"]
    while (state := client.get(f"/v1/jobs/{job}").json())["status"] in ("queued", "running"):
        time.sleep(POLL_SECONDS)
    seconds = time.perf_counter() - started
    paths = state["result"]["audio_paths"]
    return hashlib.sha256(b"".join(client.get(path).content for path in paths)).hexdigest(), seconds


def cancelled(client: httpx.Client, wait: float, seed: int) -> tuple[str, str, float]:
    """Cancel a song after `wait` seconds: its stage then, its state at the end, the seconds to the answer."""
    job = client.post("/v1/music/generate", json={**SONG, "seed": seed}).raise_for_status().json()["job_id"]
    time.sleep(wait)
    stage = client.get(f"/v1/jobs/{job}").json()["stage"]
    started = time.perf_counter()
    ended = client.post(f"/v1/jobs/{job}/cancel").raise_for_status().json()
    return stage, ended["status"], time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8001")
    parser.add_argument("--count", type=int, default=200)
    options = parser.parse_args()
    dice = random.Random(0)
    by_stage: defaultdict[str, list[float]] = defaultdict(list)
    states: defaultdict[str, int] = defaultdict(int)
    with httpx.Client(base_url=options.url, timeout=600) as client:
        made(client)  # what is loaded at the first song
        before, longest = made(client)
        for number in range(options.count):
            stage, state, seconds = cancelled(client, dice.uniform(0, longest), 1000 + number)
            states[state] += 1
            by_stage[stage].append(seconds)
        after, _ = made(client)
    for stage, all_seconds in sorted(by_stage.items()):
        print(f"{stage}: {len(all_seconds)} cancels, median {1000 * median(all_seconds):.0f} ms")
    together = [seconds for each in by_stage.values() for seconds in each]
    print(f"p95 {1000 * quantiles(together, n=20)[-1]:.0f} ms, longest {1000 * max(together):.0f} ms")
    print(f"ended: {dict(states)}; the next song is {'the same' if after == before else 'ANOTHER'}")


if __name__ == "__main__":
    main()
