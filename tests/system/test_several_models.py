"""Several models behind one server, started as its users start it; the bundled one stands in for each."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoint_folders import link_nano
from tests.live_server import LiveServer, WarmServer

ROOT = Path(__file__).resolve().parents[2]
TURBO, BASE, SFT = "acestep-v15-turbo", "acestep-v15-base", "acestep-v15-sft"
QUICK = {"prompt": "piano", "audio_duration": 10, "batch_size": 1, "audio_format": "wav"}
# Prints the variables that it gets.
SHOW = "import json, os; print(json.dumps({k: v for k, v in os.environ.items() if k.startswith('ACESTEP_')}))"

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    own: dict[str, Any] = {"acestep_notice": ""}
    for name, steps in ((TURBO, 2), (BASE, 3), (SFT, 4)):
        link_nano(folder, name, **own, is_turbo=name == TURBO, acestep_defaults={"steps": steps})
    return folder


def launched(script: str, folder: Path, checkpoints: Path, **env: str) -> LiveServer:
    """A server as a launch script starts it, in a copy of the project's folder, but in a forked process."""
    for file in (script, "scripts/launch.sh"):
        copy = folder / "project" / file
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, copy)
    server = folder / "project" / ".venv" / "bin" / "acestep-api"
    server.parent.mkdir(parents=True)
    server.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{SHOW}"\n', encoding="utf-8")
    server.chmod(0o755)
    own = {
        "PATH": "/usr/bin:/bin",  # where no uv is
        "ACESTEP_CHECKPOINTS_DIR": str(checkpoints),
        "ACESTEP_INIT_LLM": "0",
        "ACESTEP_API_HOST": "127.0.0.1",
    }
    bare = {name: value for name, value in os.environ.items() if not name.startswith("ACESTEP_")}
    command = [str(folder / "project" / script)]
    shown = subprocess.run(command, env=bare | own | env, capture_output=True, check=True, timeout=60)
    return WarmServer(folder / "data", json.loads(shown.stdout))


def states(live: LiveServer, route: str = "/v1/models") -> dict[str, tuple[str, bool, bool]]:
    models = live.client.get(route).json()["data"]["models"]
    return {model["name"]: (model["state"], model["is_default"], model["is_loaded"]) for model in models}


def made(live: LiveServer, **fields: Any) -> dict[str, Any]:
    ((song,),) = live.wait_for([live.submit(**QUICK, **fields)])
    return song


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory, checkpoints: Path) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("multimodel")
    with launched("run_api_server_multimodel.sh", folder, checkpoints) as started:
        started.wait_ready()
        yield started


class TestMultimodel:
    @pytest.mark.parametrize(
        ("fields", "model", "steps"),
        [({}, TURBO, 2), ({"model": BASE}, BASE, 3), ({"model": f"acestep/{BASE}"}, BASE, 3)],
        ids=["default", "by name", "by prefixed name"],
    )
    def test_a_request_says_which_model_makes_it(
        self, live: LiveServer, fields: dict[str, Any], model: str, steps: int
    ) -> None:
        song = made(live, **fields)
        assert (song["dit_model"], song["status"], song["warnings"]) == (model, 1, [])
        assert song["recipe"]["inference_steps"] == steps

    def test_a_name_that_is_not_loaded_runs_the_default_and_says_so(self, live: LiveServer) -> None:
        song = made(live, model=SFT)
        assert (song["dit_model"], song["status"]) == (TURBO, 1)
        assert any(f"'{SFT}' is not loaded here" in warning for warning in song["warnings"])

    def test_tasks_that_turbo_does_not_do_are_done_by_base(self, live: LiveServer) -> None:
        answer = live.client.post("/release_task", json=QUICK | {"task_type": "lego"})
        assert answer.status_code == 422 and BASE in answer.json()["error"]

    def test_both_are_listed(self, live: LiveServer) -> None:
        assert made(live, model=BASE)["status"] == 1  # by now it is loaded
        assert states(live) == {TURBO: ("ready", True, True), BASE: ("ready", False, True)}


def test_lowvram_has_one_model_whatever_is_inherited(tmp_path: Path, checkpoints: Path) -> None:
    inherited = {"ACESTEP_CONFIG_PATH2": BASE, "ACESTEP_CONFIG_PATH3": SFT, "ACESTEP_MODELS": SFT}
    with launched("run_api_server_lowvram.sh", tmp_path, checkpoints, **inherited) as live:
        assert list(states(live)) == [TURBO]


def test_a_model_on_disk_is_loaded_when_a_request_names_it(tmp_path: Path, checkpoints: Path) -> None:
    on_demand = {"ACESTEP_CHECKPOINTS_DIR": str(checkpoints), "ACESTEP_ON_DEMAND_MODEL_LOAD": "true"}
    with WarmServer(tmp_path / "data", on_demand | {"ACESTEP_MODELS": "missing"}) as live:
        live.wait_ready()
        found = states(live)
        assert [found[name][0] for name in ("acestep-nano", "missing", BASE)] == [
            "ready",
            "failed",
            "on_disk",
        ]
        said = "The model missing cannot be loaded. ACESTEP_MODELS: There is no model 'missing'."
        assert said in live.log.read_text()
        for name in (BASE, SFT):
            assert made(live, model=name)["dit_model"] == name
        found = states(live)
        assert (found["acestep-nano"][0], found[BASE][0], found[SFT][0]) == ("on_disk", "ready", "ready")
        assert made(live, inference_steps=1)["dit_model"] == "acestep-nano"


def test_models_change_without_a_restart(tmp_path: Path, checkpoints: Path) -> None:
    with WarmServer(tmp_path / "data", {"ACESTEP_CHECKPOINTS_DIR": str(checkpoints)}) as live:
        waiting = live.submit(**QUICK, inference_steps=1)
        live.wait_ready()
        found = states(live, "/v1/model_inventory")
        assert {name for name, (state, *_) in found.items() if state == "on_disk"} == {TURBO, BASE, SFT}
        assert made(live, model=BASE)["dit_model"] == "acestep-nano"
        for slot, name in ((2, BASE), (1, TURBO)):
            answer = live.client.post("/v1/init", json={"model": name, "slot": slot})
            assert (answer.status_code, answer.json()["data"]["loaded_model"]) == (200, name), answer.text
        assert states(live) == {TURBO: ("ready", True, True), BASE: ("ready", False, True)}
        assert [made(live, model=name)["dit_model"] for name in (None, BASE)] == [TURBO, BASE]
        ((song,),) = live.wait_for([waiting])
        assert song["status"] == 1
        assert live.client.post("/v1/reinitialize").json()["data"]["reloaded"] == []


def test_other_models_serve_where_the_default_one_cannot_be_loaded(tmp_path: Path, checkpoints: Path) -> None:
    folder = tmp_path / "checkpoints"
    link_nano(folder, TURBO, num_hidden_layers=99)  # which its weights do not have
    (folder / BASE).symlink_to(checkpoints / BASE)
    env = {"ACESTEP_CHECKPOINTS_DIR": str(folder), "ACESTEP_CONFIG_PATH": TURBO, "ACESTEP_CONFIG_PATH2": BASE}
    with WarmServer(tmp_path / "data", env) as live:
        assert made(live, model=BASE)["dit_model"] == BASE
        assert {name: state for name, (state, *_) in states(live).items()} == {TURBO: "failed", BASE: "ready"}
        refused = live.client.post("/release_task", json=QUICK)
        assert refused.status_code == 503
        assert refused.json()["error"].startswith(f"{TURBO} could not be loaded: ")
        health = live.client.get("/health").json()["data"]
        assert (health["status"], health["ready"]) == ("error", False)
