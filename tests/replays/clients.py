"""What several of the replayed programs do alike: ask until a task has ended."""

import json
import time
from collections.abc import Callable
from typing import Any

PATIENCE = 120  # seconds


def poll(ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Ask for an entry of /query_result until its status is not 0."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        entry = ask()
        if entry["status"] != 0:
            return entry
        time.sleep(0.05)
    raise AssertionError("the task did not end")


def songs_of(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """The items of an entry, as programs read them: from a JSON string."""
    assert entry["status"] == 1, entry
    assert isinstance(entry["result"], str)
    items = json.loads(entry["result"])
    assert all(isinstance(item, dict) for item in items)
    return list(items)
