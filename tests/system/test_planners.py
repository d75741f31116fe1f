"""Planners that are replaced or loaded on demand while songs wait, over HTTP."""

from pathlib import Path
from typing import Any

from acestep.catalog.planner_choice import NANO_PLANNER, NANO_PLANNER_FOLDER
from tests.live_server import QUICK, LiveServer, WarmServer


def test_queued_songs_are_made_while_the_planner_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "other").symlink_to(NANO_PLANNER_FOLDER)
    env = {"ACESTEP_CHECKPOINTS_DIR": str(tmp_path), "ACESTEP_INIT_LLM": "false"}
    with WarmServer(tmp_path / "data", env) as live:
        waiting = [live.submit(**QUICK)]
        data = init(live, lm_model_path=NANO_PLANNER)
        assert (data["loaded_lm_model"], data["llm_initialized"]) == (NANO_PLANNER, True)
        assert data["loaded_model"] == "acestep-nano"
        memory = live.client.get("/v1/stats").json()["data"]["memory"]
        assert memory["lm_model"] == NANO_PLANNER
        assert "planner" in [part["name"] for part in memory["parts"]]
        live.wait_ready()
        waiting += [live.submit(**QUICK, thinking=True) for _ in range(2)]
        assert init(live, init_llm=True, lm_model_path="other")["loaded_lm_model"] == "other"
        refused = live.client.post("/v1/init", json={"lm_model_path": "nobody"})
        assert (refused.status_code, refused.json()["extra"]["field"]) == (422, "lm_model_path")
        songs = [made for (made,) in live.wait_for(waiting)]
        assert [made["status"] for made in songs] == [1, 1, 1]
        assert {made["lm_model"] for made in songs[1:]} <= {NANO_PLANNER, "other"}
        assert live.client.post("/v1/reinitialize").json()["data"]["reloaded"] == []


def test_a_song_is_planned_by_the_planner_that_it_names(tmp_path: Path) -> None:
    other = "acestep-5Hz-lm-0.6B"
    (tmp_path / other).symlink_to(NANO_PLANNER_FOLDER)
    env = {"ACESTEP_CHECKPOINTS_DIR": str(tmp_path), "ACESTEP_ON_DEMAND_MODEL_LOAD": "true"}
    with WarmServer(tmp_path / "data", env) as live:
        live.wait_ready()
        names = ["", other, NANO_PLANNER, f"/models/{other}", "nobody"]
        waiting = [live.submit(**QUICK, thinking=True, lm_model_path=name) for name in names]
        songs = [made for (made,) in live.wait_for(waiting)]
        own = NANO_PLANNER
        assert [made["lm_model"] for made in songs] == [own, other, own, other, own]
        said = [[each for each in made["warnings"] if "lm_model_path" in each] for made in songs]
        assert said[:4] == [[]] * 4
        assert said[4] == [f"lm_model_path: 'nobody' is not loaded here; {NANO_PLANNER} is used instead"]
        answer = live.client.post("/format_input", json={"prompt": "piano, 70 bpm", "lm_model_path": other})
        assert answer.json()["data"]["bpm"] == 70
        listed = live.client.get("/v1/models").json()["data"]
        assert listed["loaded_lm_model"] == other
        assert {each["name"]: each["state"] for each in listed["lm_models"]} == {
            NANO_PLANNER: "on_disk",
            other: "ready",
        }


def init(live: LiveServer, **fields: object) -> dict[str, Any]:
    answer = live.client.post("/v1/init", json=fields)
    assert answer.status_code == 200, answer.text
    data: dict[str, Any] = answer.json()["data"]
    return data
