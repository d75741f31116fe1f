"""Which planner is loaded: asked for, fitting, or none with a reason."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from acestep.catalog import planner_choice
from acestep.catalog.checkpoints import NANO_MODEL
from acestep.catalog.planner_choice import NANO_PLANNER, PlannerChoice, PlannerWish, choose_planner
from acestep.errors import CheckpointError

PUBLISHED = ("acestep-5Hz-lm-0.6B", "acestep-5Hz-lm-1.7B", "acestep-5Hz-lm-4B")


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
    planned: str | None = None,
) -> PlannerChoice:
    wish = PlannerWish(init, name, dit, folder)
    return choose_planner(wish, lambda: memory, lambda: hub, lambda documented: planned)


def test_off_is_off(tmp_path):
    put("acestep-5Hz-lm-4B", tmp_path)
    choice = choose(tmp_path, init=False, name="acestep-5Hz-lm-4B", memory=80)
    assert choice.name == ""
    assert "ACESTEP_INIT_LLM" in choice.detail


@pytest.mark.parametrize(("memory", "found"), [(0.0, "no GPU"), (8.0, "a GPU of 8 GB")])
@pytest.mark.parametrize("planned", [None, ""])
def test_auto_leaves_it_out_where_there_is_no_room(tmp_path, memory, found, planned):
    put("acestep-5Hz-lm-1.7B", tmp_path)
    choice = choose(tmp_path, memory=memory, planned=planned)
    assert (choice.name, choice.folder) == ("", None)
    assert found in choice.detail
    assert "set it to true" in choice.detail


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    for each in PUBLISHED:
        put(each, folder)
    return folder


@pytest.mark.parametrize("quarters", range(8, 321))
def test_without_a_plan_it_goes_by_the_documented_tiers(published, quarters):
    memory = quarters / 4
    tier = 2 if memory >= 24.5 else 1 if memory >= 12.5 else 0
    asked = choose(published, init=True, memory=memory)
    assert asked == PlannerChoice(PUBLISHED[tier], published / PUBLISHED[tier])
    default_planner = choose(published, memory=memory)
    assert default_planner.name == (PUBLISHED[tier] if tier else "")


@pytest.mark.parametrize("quarters", range(8, 321, 4))
@pytest.mark.parametrize("init", [None, True])
@pytest.mark.parametrize("planned", PUBLISHED)
def test_the_plan_goes_before_the_tiers(published, init, quarters, planned):
    assert choose(published, init=init, memory=quarters / 4, planned=planned).name == planned


@pytest.mark.parametrize(("memory", "documented"), [(0, 0), (12, 0), (16, 1), (24, 1), (24.5, 2), (80, 2)])
def test_the_plan_is_told_what_is_documented(tmp_path, memory, documented):
    told: list[str] = []
    for init in (None, True):
        wish = PlannerWish(init, None, "acestep-v15-turbo", tmp_path)
        choose_planner(wish, lambda: memory, lambda: True, told.append)
    assert told == [PUBLISHED[documented]] * 2, "asked once each, since it is much to count"


@pytest.mark.parametrize("planned", PUBLISHED)
def test_a_named_one_that_was_not_asked_for_is_left_to_its_plan(published, planned):
    assert choose(published, name=PUBLISHED[2], memory=8, planned=planned).name == PUBLISHED[2]
    assert choose(published, name=PUBLISHED[2], memory=8).name == ""


def test_a_smaller_one_on_disk_does_where_the_one_that_fits_is_not_to_be_had(tmp_path):
    folder = put(PUBLISHED[1], tmp_path)
    assert choose(tmp_path, planned=PUBLISHED[2]) == PlannerChoice(PUBLISHED[1], folder)
    assert choose(tmp_path, init=True, planned=PUBLISHED[2]).folder == folder
    assert choose(tmp_path, planned=PUBLISHED[2], hub=True).folder == folder, "nothing need be downloaded"
    assert choose(tmp_path / "none", planned=PUBLISHED[2], hub=True) == PlannerChoice(PUBLISHED[2])
    assert choose(tmp_path, planned=PUBLISHED[0], memory=80).name == "", "a larger one has no room"


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


def test_nano_has_a_planner_of_its_own_which_keeps_to_itself_unless_asked_for(tmp_path):
    bundled = PlannerChoice(NANO_PLANNER, planner_choice.NANO_PLANNER_FOLDER)
    assert choose(tmp_path, init=True, dit=NANO_MODEL) == bundled
    assert choose(tmp_path, name=NANO_PLANNER, dit=NANO_MODEL) == bundled
    assert choose(tmp_path, dit=NANO_MODEL) == replace(bundled, only_if_needed=True)


def test_a_bundle_that_is_missing_is_said_to_be(tmp_path, monkeypatch):
    monkeypatch.setattr(planner_choice, "NANO_PLANNER_FOLDER", tmp_path / "none")
    with pytest.raises(CheckpointError, match=r"install the server again.*ACESTEP_INIT_LLM=false"):
        choose(tmp_path, init=True, dit=NANO_MODEL)


def test_gpu_memory_is_what_the_driver_says(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert planner_choice.gpu_memory_gb() == 0.0
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 24576\necho 8192\n")
    tool.chmod(0o755)
    assert planner_choice.gpu_memory_gb() == 24.0
    tool.write_text("#!/bin/sh\necho '[N/A]'\n")
    assert planner_choice.gpu_memory_gb() == 0.0
