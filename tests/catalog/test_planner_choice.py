"""Which planner is chosen, or why none."""

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
def test_auto_loads_none_without_room(tmp_path, memory, found, planned):
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


@pytest.mark.parametrize(
    ("memory", "asked", "unasked"),
    [
        (0, "acestep-5Hz-lm-0.6B", ""),
        (8, "acestep-5Hz-lm-0.6B", ""),
        (12.25, "acestep-5Hz-lm-0.6B", ""),
        (12.5, "acestep-5Hz-lm-1.7B", "acestep-5Hz-lm-1.7B"),
        (16, "acestep-5Hz-lm-1.7B", "acestep-5Hz-lm-1.7B"),
        (24.25, "acestep-5Hz-lm-1.7B", "acestep-5Hz-lm-1.7B"),
        (24.5, "acestep-5Hz-lm-4B", "acestep-5Hz-lm-4B"),
        (80, "acestep-5Hz-lm-4B", "acestep-5Hz-lm-4B"),
    ],
)
def test_without_a_plan_the_documented_tiers_hold(published, memory, asked, unasked):
    assert choose(published, init=True, memory=memory) == PlannerChoice(asked, published / asked)
    assert choose(published, memory=memory).name == unasked


@pytest.mark.parametrize("init", [None, True])
@pytest.mark.parametrize(
    ("memory", "planned"),
    [(8, "acestep-5Hz-lm-4B"), (16, "acestep-5Hz-lm-0.6B"), (80, "acestep-5Hz-lm-1.7B")],
)
def test_a_plan_overrides_the_tiers(published, init, memory, planned):
    assert choose(published, init=init, memory=memory, planned=planned).name == planned


@pytest.mark.parametrize(("memory", "documented"), [(0, 0), (12, 0), (16, 1), (24, 1), (24.5, 2), (80, 2)])
def test_the_plan_gets_the_documented_planner(tmp_path, memory, documented):
    told: list[str] = []
    for init in (None, True):
        wish = PlannerWish(init, None, "acestep-v15-turbo", tmp_path)
        choose_planner(wish, lambda: memory, lambda: True, told.append)
    assert told == [PUBLISHED[documented]] * 2, "asked once each, since it is much to count"


@pytest.mark.parametrize("planned", PUBLISHED)
def test_auto_loads_a_named_planner_where_one_has_room(published, planned):
    assert choose(published, name=PUBLISHED[2], memory=8, planned=planned).name == PUBLISHED[2]
    assert choose(published, name=PUBLISHED[2], memory=8).name == ""


def test_a_smaller_planner_on_disk_comes_before_a_download(tmp_path):
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


def test_true_chooses_the_smallest_without_a_gpu(tmp_path):
    folder = put("acestep-5Hz-lm-0.6B", tmp_path)
    assert choose(tmp_path, init=True) == PlannerChoice("acestep-5Hz-lm-0.6B", folder)


def test_a_named_planner_is_chosen_whatever_fits(tmp_path):
    folder = put("acestep-5Hz-lm-4B", tmp_path)
    assert choose(tmp_path, init=True, name="acestep-5Hz-lm-4B").folder == folder
    elsewhere = put("mine", tmp_path / "lms")
    assert choose(tmp_path / "none", init=True, name=str(elsewhere)) == PlannerChoice("mine", elsewhere)


def test_a_missing_planner_is_downloaded_if_a_hub_answers(tmp_path):
    assert choose(tmp_path, init=True, hub=True) == PlannerChoice("acestep-5Hz-lm-0.6B", None)
    assert choose(tmp_path, memory=16, hub=True) == PlannerChoice("acestep-5Hz-lm-1.7B", None)


def test_a_planner_that_was_asked_for_and_is_unavailable_stops_the_start(tmp_path):
    with pytest.raises(CheckpointError, match=r"uv run acestep-download acestep-5Hz-lm-0\.6B"):
        choose(tmp_path, init=True)
    with pytest.raises(CheckpointError, match=r"'typo'.*ACESTEP_LM_MODEL_PATH.*acestep-5Hz-lm-4B"):
        choose(tmp_path, init=True, name="typo", hub=True)
    put("acestep-5Hz-lm-1.7B", tmp_path, tokenizer=False)
    with pytest.raises(CheckpointError, match=r"incomplete; missing: acestep-5Hz-lm-1\.7B/tokenizer\.json"):
        choose(tmp_path, init=True, name="acestep-5Hz-lm-1.7B")


def test_auto_starts_without_an_unavailable_planner(tmp_path):
    choice = choose(tmp_path, memory=16)
    assert choice.name == ""
    assert "acestep-download acestep-5Hz-lm-1.7B" in choice.detail


def test_nanos_planner_is_used_only_if_needed_unless_asked_for(tmp_path):
    bundled = PlannerChoice(NANO_PLANNER, planner_choice.NANO_PLANNER_FOLDER)
    assert choose(tmp_path, init=True, dit=NANO_MODEL) == bundled
    assert choose(tmp_path, name=NANO_PLANNER, dit=NANO_MODEL) == bundled
    assert choose(tmp_path, dit=NANO_MODEL) == replace(bundled, only_if_needed=True)


def test_a_missing_bundled_planner_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(planner_choice, "NANO_PLANNER_FOLDER", tmp_path / "none")
    with pytest.raises(CheckpointError, match=r"install the server again.*ACESTEP_INIT_LLM=false"):
        choose(tmp_path, init=True, dit=NANO_MODEL)


def test_gpu_memory_is_read_from_the_driver(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert planner_choice.gpu_memory_gb() == 0.0
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 24576\necho 8192\n")
    tool.chmod(0o755)
    assert planner_choice.gpu_memory_gb() == 24.0
    tool.write_text("#!/bin/sh\necho '[N/A]'\n")
    assert planner_choice.gpu_memory_gb() == 0.0
