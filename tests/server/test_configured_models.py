from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from acestep.catalog.checkpoints import as_choice, require
from acestep.limits import BASE_TASKS, TURBO_TASKS
from acestep.server.configured_models import OnDisk, Secondaries, expect, secondaries
from acestep.settings.settings import Settings
from tests.checkpoint_folders import write_dit, write_nano, write_published

TURBO, BASE, SFT = "acestep-v15-turbo", "acestep-v15-base", "acestep-v15-sft"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (TURBO, BASE, SFT):
        write_published(tmp_path, name)
    return tmp_path


def found(folder: Path, reachable: bool = False, **settings: Any) -> Secondaries:
    return secondaries(Settings(checkpoints_dir=folder, **settings), TURBO, lambda: reachable)


def test_without_settings_there_are_none(folder: Path) -> None:
    assert found(folder) == Secondaries(())


def test_every_slot_has_its_number(folder: Path) -> None:
    write_dit(folder / "mine", is_turbo=False)
    models = found(folder, config_path3=BASE, models=(SFT, "", str(folder / "mine"))).models
    assert [(each.number, each.info.name) for each in models] == [(3, BASE), (4, SFT), (5, "mine")]
    assert all(each.choice is not None and each.info.state == "loading" for each in models)
    assert not any(each.info.is_default for each in models)


@pytest.mark.parametrize("wish", ["no-such-model", "/no/such/no-such-model"])
def test_what_cannot_be_had_has_failed_and_says_why(folder: Path, wish: str) -> None:
    (missing, there) = found(folder, config_path2=wish, config_path3=BASE).models
    assert (missing.info.name, missing.info.state, missing.choice) == ("no-such-model", "failed", None)
    assert "There is no model" in missing.info.detail
    assert there.info.name == BASE


def test_a_folder_that_lacks_something_has_failed(folder: Path) -> None:
    (folder / SFT / "model.safetensors").unlink()
    (sft,) = found(folder, config_path2=SFT).models
    assert sft.info.state == "failed" and "model.safetensors" in sft.info.detail
    assert (sft.info.steps, sft.info.guidance_scale, sft.info.tasks) == (50, 7.0, BASE_TASKS)


def test_a_published_model_that_is_not_here_is_downloaded(folder: Path) -> None:
    name = "acestep-v15-xl-turbo"
    (there,) = found(folder, reachable=True, config_path2=name).models
    (offline,) = found(folder, config_path2=name).models
    assert (there.info.state, there.info.tasks) == ("downloading", TURBO_TASKS)
    assert offline.info.state == "failed" and "cannot be reached" in offline.info.detail


def test_a_model_is_loaded_once_whoever_names_it(folder: Path) -> None:
    wishes = found(folder, config_path2=TURBO, config_path3=BASE, models=(str(folder / BASE),))
    assert [each.info.name for each in wishes.models] == [BASE]
    assert wishes.notes == (
        f"ACESTEP_CONFIG_PATH2: {TURBO} is left out; there is a model called {TURBO} already",
        f"ACESTEP_MODELS: {folder / BASE} is left out; there is a model called {BASE} already",
    )


def test_what_is_expected_of_a_model(folder: Path) -> None:
    turbo = expect(as_choice(require(TURBO, folder)), is_default=True)
    assert (turbo.steps, turbo.max_steps, turbo.tasks, turbo.is_default) == (8, 8, TURBO_TASKS, True)
    write_nano(folder)
    nano = expect(as_choice(require("acestep-nano", folder), "No GPU was found."))
    assert nano.notice == "This is nano. No GPU was found."


def test_only_whole_models_lie_on_disk(folder: Path) -> None:
    (folder / SFT / "config.json").unlink()
    (folder / "lora").mkdir()
    (folder / "notes.txt").write_text("mine")
    assert [checkpoint.name for checkpoint in OnDisk(folder).models()] == [BASE, TURBO]
    assert OnDisk(folder / "none").models() == ()


def test_what_lies_on_disk_is_read_again_when_something_came_or_went(folder: Path, monkeypatch) -> None:
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
