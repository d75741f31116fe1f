"""A real server whose models come and go, and one whose thread gets stuck."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from acestep.server.stopping import STUCK
from tests.live_server import QUICK, LiveServer, WarmServer


def never_render() -> None:
    """Songs are never done in this process."""
    from acestep.engine.torch_renderer import TorchRenderer

    TorchRenderer.render = lambda *_: threading.Event().wait()  # type: ignore[assignment, method-assign]


def until(is_so: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.1)


def health(live: LiveServer) -> dict[str, Any]:
    return dict(live.client.get("/health").json()["data"])


def test_models_come_when_they_are_wanted_and_leave_when_they_are_idle(tmp_path: Path) -> None:
    env = {"ACESTEP_NO_INIT": "true", "ACESTEP_IDLE_UNLOAD_SECONDS": "1", "ACESTEP_INIT_LLM": "true"}
    with WarmServer(tmp_path / "data", env) as live:
        live.wait_ready(10)  # nothing is loaded for it
        found = health(live)
        assert (found["loaded_model"], found["loaded_lm_model"]) == (None, None)
        assert (found["models"][0]["state"], found["planner"]["state"]) == ("on_disk", "on_disk")
        for _ in range(2):
            ((song,),) = live.wait_for([live.submit(**QUICK)])
            assert song["status"] == 1 and live.download(song)
            assert song["dit_model"] == "acestep-nano" and song["lm_model"]
            until(lambda: (health(live)["loaded_model"], health(live)["loaded_lm_model"]) == (None, None))
            assert health(live)["ready"]
            models = live.client.get("/v1/models").json()["data"]
            assert [model["is_loaded"] for model in models["models"]] == [False]


def test_a_stuck_stage_fails_its_job_and_a_restart_goes_on_with_the_next(tmp_path: Path) -> None:
    with WarmServer(tmp_path / "data", {"ACESTEP_STAGE_TIMEOUT": "1"}, never_render) as live:
        live.wait_ready()
        ((failed,),) = live.wait_for([live.submit(**QUICK)])
        assert failed["status"] == 2 and "Stage render made no progress for 1 s" in failed["error"]
        answer = live.client.get("/health")
        assert answer.status_code == 503 and "Restart the server" in answer.json()["error"]
        waiting = live.submit(**QUICK)
        time.sleep(1)
        assert live.query([waiting])[0]["queue_position"] == 1
        began = time.monotonic()
        assert live.stop() == STUCK
        assert time.monotonic() - began < 20  # it does not wait for the thread
    with WarmServer(tmp_path / "data") as well:
        ((song,),) = well.wait_for([waiting])
        assert song["status"] == 1
