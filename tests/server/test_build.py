"""How models that come while the server runs are limited, from the catalogue to the memory plan."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from acestep.audio.encode import SongWriter
from acestep.background import BackgroundTasks
from acestep.catalog.checkpoints import choose
from acestep.catalog.planner_choice import PlannerChoice
from acestep.data_folder import DataFolder
from acestep.device.probes import Probes
from acestep.errors import CheckpointError
from acestep.files import AudioStore
from acestep.memory.admission import MemoryLedger
from acestep.memory.decide import decide_for_server
from acestep.memory.plan import GB
from acestep.server import build
from acestep.server.build import Prepared, _Catalog, build_engines, jobs_at_once, prepare
from acestep.server.configured_models import ConfiguredModels
from acestep.server.planner_manager import DevicePlanner
from acestep.settings.settings import Settings
from acestep.weights.shared_modules import SharedModules

PROBES = Probes(gpu_free=lambda _: 20 * GB, main_memory=lambda: 32 * GB, has_vllm=lambda: False)
LARGE = PlannerChoice("acestep-5Hz-lm-4B")


@pytest.fixture(autouse=True)
def _hub(bare_environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "any_reachable", lambda source: True)


def opened(folder: Path, probes: Probes = PROBES, **given: Any) -> tuple[Settings, MemoryLedger, _Catalog]:
    settings = Settings.load(folder, device="cuda", **given)
    turbo = choose("acestep-v15-turbo", folder, lambda: True, lambda: True)
    ledger = MemoryLedger(decide_for_server(settings, [turbo], PlannerChoice(), probes))
    catalog = _Catalog(settings, ledger, SharedModules())
    return settings, ledger, catalog


def test_a_model_is_limited_beside_those_that_are_there(tmp_path: Path) -> None:
    tight = replace(PROBES, gpu_free=lambda _: 17 * GB)
    _, ledger, catalog = opened(tmp_path, tight, init_llm=False)
    turbo = choose("acestep-v15-turbo", tmp_path, lambda: True, lambda: True)
    there = catalog.configured(turbo, is_default=True).info
    assert ledger.decision is not None and there == ledger.decision.limited(there)
    alone, beside = (catalog.find("acestep-v15-base", infos).info for infos in ([], [there]))
    assert (alone.max_batch, beside.max_batch) == (8, 4)
    assert catalog.no_room([there, beside]) == ""
    assert "17.00 GB" in catalog.no_room([there, alone])


def test_a_planner_that_came_later_counts(tmp_path: Path) -> None:
    settings, ledger, catalog = opened(tmp_path, init_llm=False)
    turbo = choose("acestep-v15-turbo", tmp_path, lambda: True, lambda: True)
    there = catalog.configured(turbo, is_default=True).info
    beside = catalog.find("acestep-v15-base", [there]).info
    ledger.decision = ledger.with_planner(LARGE, settings, [there])
    assert "GB are needed" in catalog.no_room([there, beside])


@pytest.mark.parametrize(
    ("own", "devices"),
    [(None, ["cuda:0", "cuda:1"]), ("cuda:1", ["cuda:1"]), ("cuda", ["cuda:0"]), ("cpu", ["cuda:0"])],
)
def test_a_planner_is_at_home_where_its_device_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str | None, devices: list[str]
) -> None:
    settings = Settings.load(tmp_path, device="cuda:0,cuda:1", lm_device=own)
    nano = choose("acestep-nano", tmp_path, lambda: True, lambda: True)
    memories = tuple(
        decide_for_server(settings.on(device), [nano], PlannerChoice(), PROBES) for device in settings.devices
    )
    prepared = Prepared(
        settings, ConfiguredModels({1: nano}), PlannerChoice(), DataFolder(tmp_path), memories
    )
    found: list[str] = []

    def device_planner(settings: Settings, *rest: Any) -> DevicePlanner:
        found.append(settings.device)
        return DevicePlanner(settings, *rest)

    monkeypatch.setattr(build, "DevicePlanner", device_planner)
    writer = SongWriter(AudioStore(tmp_path / "audio", b"s" * 32), 128)
    build_engines(prepared, writer, lambda _: None, BackgroundTasks())
    assert found == devices


TURBO_ALONE = "acestep-v15-turbo is not in {} and the hub cannot be reached. `uv run acestep-download "
LOWVRAM = "./run_api_server_lowvram.sh"
TYPO = "There is no planner 'typo'. Set ACESTEP_LM_MODEL_PATH"


@pytest.mark.parametrize(
    ("given", "launched_by", "said", "tried"),
    [
        ({}, "", (TURBO_ALONE,), "ACESTEP_CONFIG_PATH=acestep-nano uv run acestep-api"),
        (
            {"lm_model_path": "acestep-5Hz-lm-1.7B", "init_llm": True},
            LOWVRAM,
            (
                "acestep-v15-turbo and acestep-5Hz-lm-1.7B are not in {} and the hub cannot be reached. To "
                "get them (about 10 GB): `uv run acestep-download acestep-v15-turbo acestep-5Hz-lm-1.7B`. To",
            ),
            f"ACESTEP_CONFIG_PATH=acestep-nano {LOWVRAM}",
        ),
        (
            {"lm_model_path": "acestep-5Hz-lm-0.6B", "init_llm": True},
            "",
            ("(about 8 GB): `uv run acestep-download acestep-v15-turbo acestep-5Hz-lm-0.6B`. To try",),
            "ACESTEP_CONFIG_PATH=acestep-nano ACESTEP_INIT_LLM=auto uv run acestep-api",
        ),
        (
            {"config_path2": "acestep-v15-base", "lm_model_path": "acestep-5Hz-lm-4B"},
            "./run_api_server_multimodel.sh",
            ("(about 11 GB): `uv run acestep-download acestep-v15-turbo acestep-v15-base`. To try",),
            "ACESTEP_CONFIG_PATH=acestep-nano ./run_api_server_multimodel.sh",
        ),
        (
            {"lm_model_path": "typo", "init_llm": True},
            LOWVRAM,
            (TURBO_ALONE, TYPO),
            f"ACESTEP_CONFIG_PATH=acestep-nano {LOWVRAM}",
        ),
    ],
)
def test_a_refused_start_offers_all_that_is_missing_and_a_try_with_nano(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: dict[str, Any],
    launched_by: str,
    said: tuple[str, ...],
    tried: str,
) -> None:
    monkeypatch.setattr(build, "any_reachable", lambda source: False)
    monkeypatch.setenv("ACESTEP_LAUNCHED_BY", launched_by)
    settings = Settings.load(tmp_path, config_path="acestep-v15-turbo", device="cpu", **given)
    with pytest.raises(CheckpointError) as told:
        prepare(settings)
    text = str(told.value)
    assert all(sentence.format(tmp_path / "checkpoints") in text for sentence in said)
    assert text.endswith(f" To try the server with the small bundled model: `{tried}`.")
    assert text.count("acestep-download") == 1


def test_nothing_is_known_without_a_plan(tmp_path: Path) -> None:
    catalog = _Catalog(Settings.load(tmp_path), MemoryLedger(None), SharedModules())
    found = catalog.find("acestep-v15-base", []).info
    assert (found.max_batch, found.max_duration) == (8, 600)
    assert catalog.no_room([found] * 9) == ""


@pytest.mark.parametrize(
    ("device", "planner", "workers", "expected"),
    [
        ("cpu", "", None, 2),  # one is computed, one is written
        ("cpu", "acestep-5Hz-lm-0.6B", None, 6),  # and four are planned
        ("cpu,cpu", "", None, 4),
        ("cuda", "", None, 16),  # a batch of eight, and the next one
        ("cuda:0,cuda:1", "", None, 32),
        ("cuda", "", 1, 1),
        ("cuda:0,cuda:1", "", 1, 2),
        ("cpu", "", 5, 5),
    ],
)
def test_so_many_jobs_run_that_no_stage_waits(
    device: str, planner: str, workers: int | None, expected: int, tmp_path: Path
) -> None:
    settings = Settings.load(tmp_path, device=device, queue_workers=workers)
    turbo = choose("acestep-v15-turbo", tmp_path, lambda: True, lambda: True)
    choice = PlannerChoice(planner)
    memories = tuple(
        decide_for_server(settings.on(each), [turbo], choice, PROBES) for each in settings.devices
    )
    models = ConfiguredModels({1: turbo})
    assert jobs_at_once(Prepared(settings, models, choice, DataFolder(tmp_path), memories)) == expected
