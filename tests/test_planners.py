"""Which planner is loaded: asked for, fitting, or none with a reason."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from acestep import planners
from acestep.checkpoints import NANO_MODEL
from acestep.errors import CheckpointError
from acestep.planners import NANO_PLANNER, PlannerChoice, PlannerWish, choose_planner


def put(name: str, checkpoints_dir: Path, *, tokenizer: bool = True) -> Path:
    folder = checkpoints_dir / name
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    save_file({"weight": np.zeros(1, np.float32)}, folder / "model.safetensors")
    if tokenizer:
        (folder / "tokenizer.json").write_text("{}")
    return folder


def choose(
    folder: Path,
    init: bool | None = None,
    name: str | None = None,
    dit: str = "acestep-v15-turbo",
    memory: float = 0.0,
    hub: bool = False,
) -> PlannerChoice:
    return choose_planner(PlannerWish(init, name, dit, folder), lambda: memory, lambda: hub)


def test_off_is_off(tmp_path):
    put("acestep-5Hz-lm-4B", tmp_path)
    choice = choose(tmp_path, init=False, name="acestep-5Hz-lm-4B", memory=80)
    assert choice.name == ""
    assert "ACESTEP_INIT_LLM" in choice.detail


@pytest.mark.parametrize(("memory", "found"), [(0.0, "no GPU"), (8.0, "a GPU of 8 GB")])
def test_auto_leaves_it_out_where_there_is_no_room(tmp_path, memory, found):
    put("acestep-5Hz-lm-1.7B", tmp_path)
    choice = choose(tmp_path, memory=memory)
    assert (choice.name, choice.folder) == ("", None)
    assert found in choice.detail
    assert "set it to true" in choice.detail


@pytest.mark.parametrize(
    ("memory", "name"),
    [(80.0, "acestep-5Hz-lm-4B"), (24.0, "acestep-5Hz-lm-1.7B"), (16.0, "acestep-5Hz-lm-1.7B")],
)
def test_auto_takes_the_largest_that_fits(tmp_path, memory, name):
    for each in ("4B", "1.7B", "0.6B"):
        put(f"acestep-5Hz-lm-{each}", tmp_path)
    assert choose(tmp_path, memory=memory) == PlannerChoice(name, (tmp_path / name))


def test_the_gpu_is_asked_once(tmp_path):
    put("acestep-5Hz-lm-1.7B", tmp_path)
    memory = iter([16.0])
    wish = PlannerWish(None, None, "acestep-v15-turbo", tmp_path)
    assert choose_planner(wish, lambda: next(memory), lambda: False).name == "acestep-5Hz-lm-1.7B"


def test_true_takes_the_smallest_where_there_is_no_gpu(tmp_path):
    folder = put("acestep-5Hz-lm-0.6B", tmp_path)
    assert choose(tmp_path, init=True) == PlannerChoice("acestep-5Hz-lm-0.6B", folder)


def test_what_is_named_is_taken_whatever_fits(tmp_path):
    folder = put("acestep-5Hz-lm-4B", tmp_path)
    assert choose(tmp_path, init=True, name="acestep-5Hz-lm-4B").folder == folder
    elsewhere = put("mine", tmp_path / "lms")
    assert choose(tmp_path / "none", init=True, name=str(elsewhere)) == PlannerChoice("mine", elsewhere)


def test_what_is_not_there_is_downloaded_if_it_can_be(tmp_path):
    assert choose(tmp_path, init=True, hub=True) == PlannerChoice("acestep-5Hz-lm-0.6B", None)
    assert choose(tmp_path, memory=16, hub=True) == PlannerChoice("acestep-5Hz-lm-1.7B", None)


def test_what_was_asked_for_and_cannot_be_had_stops_the_start(tmp_path):
    with pytest.raises(CheckpointError, match=r"uv run acestep-download acestep-5Hz-lm-0\.6B"):
        choose(tmp_path, init=True)
    with pytest.raises(CheckpointError, match=r"'typo'.*ACESTEP_LM_MODEL_PATH.*acestep-5Hz-lm-4B"):
        choose(tmp_path, init=True, name="typo", hub=True)
    put("acestep-5Hz-lm-1.7B", tmp_path, tokenizer=False)
    with pytest.raises(CheckpointError, match=r"incomplete; missing: acestep-5Hz-lm-1\.7B/tokenizer\.json"):
        choose(tmp_path, init=True, name="acestep-5Hz-lm-1.7B")


def test_auto_starts_without_what_cannot_be_had(tmp_path):
    choice = choose(tmp_path, memory=16)
    assert choice.name == ""
    assert "acestep-download acestep-5Hz-lm-1.7B" in choice.detail


def test_nano_has_a_planner_of_its_own_for_who_asks(tmp_path):
    bundled = PlannerChoice(NANO_PLANNER, planners.NANO_PLANNER_FOLDER)
    assert choose(tmp_path, init=True, dit=NANO_MODEL) == bundled
    assert choose(tmp_path, name=NANO_PLANNER, dit=NANO_MODEL) == bundled
    choice = choose(tmp_path, dit=NANO_MODEL)
    assert choice.name == ""
    assert "set it to true" in choice.detail


def test_a_bundle_that_is_missing_is_said_to_be(tmp_path, monkeypatch):
    monkeypatch.setattr(planners, "NANO_PLANNER_FOLDER", tmp_path / "none")
    with pytest.raises(CheckpointError, match=r"install the server again.*ACESTEP_INIT_LLM=false"):
        choose(tmp_path, init=True, dit=NANO_MODEL)


def test_gpu_memory_is_what_the_driver_says(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert planners.gpu_memory_gb() == 0.0
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 24576\necho 8192\n")
    tool.chmod(0o755)
    assert planners.gpu_memory_gb() == 24.0
    tool.write_text("#!/bin/sh\necho '[N/A]'\n")
    assert planners.gpu_memory_gb() == 0.0
