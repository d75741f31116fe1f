"""Several devices behind one queue; the same processor stands in for each."""

from __future__ import annotations

import time
from pathlib import Path

from tests.live_server import WarmServer

LONG = {"prompt": "piano", "audio_duration": 20, "batch_size": 1, "seed": 3, "audio_format": "wav"}


def test_each_device_makes_songs_from_the_one_queue(tmp_path: Path) -> None:
    with WarmServer(tmp_path, {"ACESTEP_DEVICE": "cpu,cpu"}) as server:
        server.wait_ready()
        ids = [server.submit(**LONG, inference_steps=steps) for steps in (8, 8, 1)]
        most = 0
        while any(entry["status"] == 0 for entry in server.query(ids)):
            most = max(most, server.client.get("/v1/stats").json()["data"]["jobs"]["running"])
            time.sleep(0.05)
        ((one,), (other,), _) = server.wait_for(ids)
        assert most == 3  # two are computed; the third waits for no stage
        assert server.download(one) == server.download(other)
        (model,) = server.client.get("/v1/models").json()["data"]["models"]
        assert (model["name"], model["state"]) == ("acestep-nano", "ready")
        answer = server.client.post("/v1/reinitialize")
        assert answer.status_code == 200, answer.text
        log = server.log.read_text()
        assert log.count("acestep-nano is ready after") == 2
        assert log.count("Device cpu:") == 2
    assert "Traceback" not in log
