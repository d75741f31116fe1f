"""How far off the times are that a server tells at submission, over jobs of mixed sizes and tasks.

    uv run python -m benchmarks.eta [--jobs 200]

Jobs come in bursts, so that some find the queue empty and others wait for several.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from tests.live_server import LiveServer

MOST_WAITING = 6
POLL_SECONDS = 0.05


def song(dice: random.Random, source: str) -> dict[str, Any]:
    """The fields of a request of some task, length and size."""
    fields: dict[str, Any] = {
        "prompt": dice.choice(("upbeat piano pop", "slow jazz with brushes", "techno", "a waltz for guitar")),
        "audio_duration": dice.choice((10, 12, 15, 20, 30, 45)),
        "inference_steps": dice.choice((4, 8, 8, 8)),
        "batch_size": dice.choice((1, 1, 2)),
        "audio_format": dice.choice(("mp3", "wav", "flac", "opus")),
        "thinking": dice.random() < 0.3,
    }
    if (kind := dice.random()) < 0.15:
        return fields | {"task_type": "cover", "src_audio_path": source, "thinking": False}
    if kind < 0.3:
        window = {"repainting_start": 2, "repainting_end": 8}
        return fields | window | {"task_type": "repaint", "src_audio_path": source, "thinking": False}
    return fields


def told_and_taken(server: LiveServer, jobs: int) -> list[tuple[float, float]]:
    """Of each job the seconds that were told, and those that it took."""
    dice, waiting, done = random.Random(0), dict[str, tuple[float, float]](), list[tuple[float, float]]()
    first = server.submit(prompt="piano", audio_duration=20, batch_size=1, audio_format="wav")
    source = server.wait_for([first])[0][0]["file"]
    submitted, room = 0, MOST_WAITING
    while len(done) < jobs:
        while submitted < jobs and len(waiting) < room:
            answer = server.client.post("/release_task", json=song(dice, source)).raise_for_status().json()
            waiting[answer["data"]["task_id"]] = (answer["data"]["eta_seconds"], time.monotonic())
            submitted += 1
        room = 0 if waiting and room == 0 else dice.choice((0, 0, 1, 3, MOST_WAITING))
        for entry in server.query([*waiting]):
            if entry["status"]:
                assert entry["status"] == 1, entry
                told, since = waiting.pop(entry["task_id"])
                done.append((told, time.monotonic() - since))
        if not waiting:
            room = dice.choice((1, 3, MOST_WAITING))
        time.sleep(POLL_SECONDS)
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--jobs", type=int, default=200)
    jobs = parser.parse_args().jobs
    with tempfile.TemporaryDirectory() as folder, LiveServer(Path(folder) / "data") as server:
        server.wait_ready()
        done = told_and_taken(server, jobs)
    for name, some in (("all", done), ("first 20", done[:20]), ("the others", done[20:])):
        errors = [abs(told - taken) / taken for told, taken in some]
        late = median([told / taken for told, taken in some])
        print(
            f"{name}: median error {median(errors):.0%}, p90 {quantiles(errors, n=10)[-1]:.0%},"
            f" told by taken {late:.2f}, median seconds {median([taken for _, taken in some]):.2f}"
        )


if __name__ == "__main__":
    main()
