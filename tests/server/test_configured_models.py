from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from acestep.catalog.checkpoints import as_choice, require
from acestep.limits import BASE_TASKS, TURBO_TASKS
from acestep.server.configured_models import ConfiguredModels, OnDisk, configured_models, expect
from acestep.settings.settings import Settings
from tests.checkpoint_folders import write_dit, write_nano, write_published

TURBO, BASE, SFT = "acestep-v15-turbo", "acestep-v15-base", "acestep-v15-sft"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (TURBO, BASE, SFT):
        write_published(tmp_path, name)
    return tmp_path


def found(folder: Path, reachable: bool = False, **settings: Any) -> ConfiguredModels:
    default = as_choice(require(TURBO, folder))
    return configured_models(Settings(checkpoints_dir=folder, **settings), default, lambda: reachable)


def test_without_settings_there_is_the_default_model(folder: Path) -> None:
    models = found(folder)
    assert {number: choice.name for number, choice in models.by_slot.items()} == {1: TURBO}
    assert models.default.name == TURBO and models.notes == ()


def test_every_slot_has_its_number(folder: Path) -> None:
    write_dit(folder / "mine", is_turbo=False)
    models = found(folder, config_path3=BASE, models=(SFT, "", str(folder / "mine")))
    names = {number: choice.name for number, choice in models.by_slot.items()}
    assert names == {1: TURBO, 3: BASE, 4: SFT, 5: "mine"}
    assert [choice.name for choice in models.loadable] == [TURBO, BASE, SFT, "mine"]
    assert all(expect(choice).state == "loading" for choice in models.by_slot.values())


@pytest.mark.parametrize("wish", ["no-such-model", "/no/such/no-such-model"])
def test_a_missing_model_has_failed_and_says_why(folder: Path, wish: str) -> None:
    models = found(folder, config_path2=wish, config_path3=BASE)
    missing = expect(models.by_slot[2])
    assert (missing.name, missing.state) == ("no-such-model", "failed")
    assert "There is no model" in missing.detail
    assert [choice.name for choice in models.loadable] == [TURBO, BASE]


@pytest.mark.parametrize(
    ("given", "variable", "number"),
    [
        ({"config_path2": "nope"}, "ACESTEP_CONFIG_PATH2", 2),
        ({"config_path3": SFT + "-typo"}, "ACESTEP_CONFIG_PATH3", 3),
        ({"models": (BASE, "nope")}, "ACESTEP_MODELS", 5),
        ({"config_path2": "acestep-v15-xl-base"}, "ACESTEP_CONFIG_PATH2", 2),  # published, and no hub answers
    ],
)
def test_the_variable_of_a_missing_model_is_named(
    folder: Path, given: dict[str, Any], variable: str, number: int
) -> None:
    problem = found(folder, **given).by_slot[number].problem
    assert problem.startswith(f"{variable}: ")
    assert problem.endswith(f" To do without it, take it out of {variable}.")
    assert "ACESTEP_CONFIG_PATH=acestep-nano" not in problem


def test_an_incomplete_folder_has_failed(folder: Path) -> None:
    (folder / SFT / "model.safetensors").unlink()
    sft = expect(found(folder, config_path2=SFT).by_slot[2])
    assert sft.state == "failed" and "model.safetensors" in sft.detail
    assert (sft.steps, sft.guidance_scale, sft.tasks) == (50, 7.0, BASE_TASKS)


def test_a_published_model_that_is_not_on_disk_is_downloaded(folder: Path) -> None:
    name = "acestep-v15-xl-turbo"
    there = expect(found(folder, reachable=True, config_path2=name).by_slot[2])
    offline = expect(found(folder, config_path2=name).by_slot[2])
    assert (there.state, there.tasks) == ("downloading", TURBO_TASKS)
    assert offline.state == "failed" and "cannot be reached" in offline.detail


def test_a_model_that_is_named_twice_is_loaded_once(folder: Path) -> None:
    models = found(folder, config_path2=TURBO, config_path3=BASE, models=(str(folder / BASE),))
    assert [choice.name for choice in models.by_slot.values()] == [TURBO, BASE]
    assert models.notes == (
        f"ACESTEP_CONFIG_PATH2: {TURBO} is left out; another model is called {TURBO} already",
        f"ACESTEP_MODELS: {folder / BASE} is left out; another model is called {BASE} already",
    )


def test_what_is_expected_of_a_model(folder: Path) -> None:
    turbo = expect(as_choice(require(TURBO, folder)), is_default=True)
    assert (turbo.steps, turbo.max_steps, turbo.tasks, turbo.is_default) == (8, 8, TURBO_TASKS, True)
    write_nano(folder)
    nano = expect(as_choice(require("acestep-nano", folder), "No GPU was found."))
    assert nano.notice == "This is nano. No GPU was found."


def test_only_complete_models_are_on_disk(folder: Path) -> None:
    (folder / SFT / "config.json").unlink()
    (folder / "lora").mkdir()
    (folder / "notes.txt").write_text("mine")
    assert [checkpoint.name for checkpoint in OnDisk(folder).models()] == [BASE, TURBO]
    assert OnDisk(folder / "none").models() == ()


def test_the_folder_is_read_again_when_files_came_or_went(folder: Path, monkeypatch) -> None:
    there = OnDisk(folder)
    assert [checkpoint.name for checkpoint in there.models()] == [BASE, SFT, TURBO]
    with monkeypatch.context() as patch:
        patch.setattr("acestep.server.configured_models.checkpoints.find", None)  # nothing is opened
        assert len(there.models()) == 3
    (folder / SFT / "model.safetensors").rename(folder / "elsewhere.safetensors")
    assert [checkpoint.name for checkpoint in there.models()] == [BASE, TURBO]
    (folder / "elsewhere.safetensors").rename(folder / SFT / "model.safetensors")
    shutil.rmtree(folder / TURBO)
    assert [checkpoint.name for checkpoint in there.models()] == [BASE, SFT]
