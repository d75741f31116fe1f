"""What the load benchmark makes of songs, and what it sends."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from benchmarks.serve import Made, draw, make, summary, table


def test_songs_in_numbers() -> None:
    songs = [Made(float(n), {"render": 2.0 * n, "write": 1.0}) for n in range(1, 21)]
    load = summary(4, 30.0, songs, took=36.0, megabytes=512.0)
    assert (load.songs_an_hour, load.p50, load.p95) == (2000.0, 10.0, 19.0)
    assert load.stages == {"render": 21.0, "write": 1.0}
    assert table([load]).row_count == 1


@pytest.mark.parametrize("status", [1, 2])
def test_a_client_waits_for_its_song(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.serve._POLL", 0.0)
    looks = iter([0, 0, status])
    sent: list[dict[str, object]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(json.loads(request.content))
        if request.url.path == "/release_task":
            return httpx.Response(200, json={"data": {"task_id": "a"}})
        result = json.dumps([{"timings": {"render": 1.5}, "error": "full"}])
        return httpx.Response(200, json={"data": [{"status": next(looks), "result": result}]})

    client = httpx.Client(base_url="http://server", transport=httpx.MockTransport(answer))
    if status == 2:
        with pytest.raises(RuntimeError, match="a failed: full"):
            make(client, {"seed": 3})
    else:
        assert make(client, {"seed": 3}).stages == {"render": 1.5}
    assert sent[0] == {"use_random_seed": False, "seed": 3}
    assert sent[1:] == [{"task_id_list": ["a"]}] * 3


def test_a_picture(tmp_path: Path) -> None:
    draw([summary(n, 10.0, [Made(1.0, {})], 2.0 / n) for n in (1, 4)], tmp_path / "serve.png")
    assert (tmp_path / "serve.png").read_bytes().startswith(b"\x89PNG")
