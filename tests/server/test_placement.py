from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from acestep.domain.devices import Gpu, Placement
from acestep.errors import SettingError
from acestep.server.placement import place, placement
from acestep.settings.settings import Settings

GPUS = tuple(Gpu(number, "GPU", 24000, free) for number, free in enumerate((1000, 20000, 23000)))


def placed(folder: Path, gpus: tuple[Gpu, ...] = GPUS, **given: Any) -> Settings:
    return place(Settings.load(folder, **given), lambda: gpus)


@pytest.mark.parametrize(
    ("mapping", "device", "planner"),
    [
        ("single:1", "cuda:1", None),
        ("dit:0,vae:0,text_encoder:0,lm:1", "cuda:0", "cuda:1"),
        ("dit:2", "cuda:2", None),
        (" LM:0 , DIT:2 ", "cuda:2", "cuda:0"),
        ("auto", "cuda:2", "cuda:1"),
    ],
)
def test_a_mapping_says_where_models_and_planner_run(
    bare_environment: None, tmp_path: Path, mapping: str, device: str, planner: str | None
) -> None:
    settings = placed(tmp_path, gpu_mapping=mapping, lm_device="cpu")
    assert (settings.device, settings.lm_device) == (device, planner)
    told = (settings.gpu_mapping, device, planner or device)
    where = placement(settings)
    assert (where.mapping, where.dit, where.planner) == told


def test_auto_changes_nothing_with_one_gpu(bare_environment: None, tmp_path: Path) -> None:
    settings = placed(tmp_path, GPUS[:1], gpu_mapping="auto", device="cuda:0", lm_device="cpu")
    assert (settings.device, settings.lm_device) == ("cuda:0", "cpu")


def test_without_a_mapping_no_gpu_is_looked_for(bare_environment: None, tmp_path: Path) -> None:
    settings = Settings.load(tmp_path, device="cuda:0,cuda:1")
    assert place(settings, lambda: pytest.fail("asked")) is settings
    assert placement(settings) == Placement(dit="cuda:0,cuda:1", planner="cuda:0,cuda:1")


@pytest.mark.parametrize(
    "mapping",
    [
        "0",
        "single:",
        "lm:1",
        "vae:0,lm:1",
        "dit:0,vae:1",
        "decoder:0,dit:0",
        "dit:0,dit:1",
        "dit:x",
        "single:-1",
    ],
)
def test_what_is_no_mapping(bare_environment: None, tmp_path: Path, mapping: str) -> None:
    with pytest.raises(SettingError, match="ACESTEP_GPU_MAPPING"):
        Settings.load(tmp_path, gpu_mapping=mapping)


def test_a_gpu_that_is_not_there(bare_environment: None, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"there are the GPUs \[0, 1, 2\]"):
        placed(tmp_path, gpu_mapping="dit:0,lm:3")


def test_devices_beside_a_mapping_are_said_to_have_no_effect(
    bare_environment: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACESTEP_GPU_MAPPING", "single:1")
    monkeypatch.setenv("ACESTEP_LM_DEVICE", "cpu")
    settings = place(Settings.load(tmp_path), lambda: ())
    assert settings.without_effect == ("ACESTEP_LM_DEVICE: No effect, since ACESTEP_GPU_MAPPING is set.",)
