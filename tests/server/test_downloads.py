from __future__ import annotations

from pathlib import Path

import pytest

from acestep.catalog.download import Order
from acestep.domain.models import choose_model
from acestep.engine.renderer import OnLoading
from acestep.errors import CheckpointError
from acestep.server import downloads as module
from acestep.server.downloads import Downloads
from acestep.settings.settings import Settings

NAME = "acestep-v15-turbo-rl"
NEW = (
    NAME,
    "acestep-v15-base-sft-fix-inst",
    "acestep-v15-turbo-fix-inst-shift3",
    "acestep-v15-turbo-fix-inst-shift-continuous",
    "acestep-v15-turbo-fix-inst-shift-dynamic",
)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def downloads(tmp_path: Path, bare_environment: None, clock: Clock) -> Downloads:
    return Downloads(Settings.load(tmp_path), clock)


def quiet() -> OnLoading:
    return OnLoading(lambda state, detail: None, lambda: None)


def test_published_models_that_are_not_there_may_be_named(downloads: Downloads) -> None:
    infos = {info.name: info for info in downloads.infos({"acestep-v15-base"})}
    assert {*NEW, "acestep-v15-turbo", "acestep-v15-xl-sft"} <= set(infos)
    assert "acestep-v15-base" not in infos and "vae" not in infos and "acestep-5Hz-lm-4B" not in infos
    assert {info.state for info in infos.values()} == {"absent"}
    assert [infos[name].is_turbo for name in NEW] == [True, False, True, True, True]
    assert (infos[NAME].steps, infos[NEW[1]].steps) == (8, 50)
    assert choose_model(tuple(infos.values()), NAME, strict=True) == (infos[NAME], ())


def test_none_may_be_named_offline(downloads: Downloads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "is_offline", lambda: True)
    assert downloads.infos(()) == ()


def test_a_failed_download_is_not_tried_again_for_five_minutes(
    downloads: Downloads, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    def fail(order: Order, *_: object) -> None:
        tried.append(order.name)
        raise CheckpointError(f"{order.name} could not be downloaded.")

    monkeypatch.setattr(module, "fetch_for_server", fail)
    for seconds, count in ((0, 1), (1, 1), (299, 1), (300, 2), (599, 2), (601, 3)):
        clock.now = 1000.0 + seconds
        with pytest.raises(CheckpointError, match=f"{NAME} could not be downloaded"):
            downloads.fetch(NAME, quiet())
        assert len(tried) == count
    infos = {info.name: info for info in downloads.infos(())}
    assert (infos[NAME].state, infos[NEW[1]].state) == ("failed", "absent")
    assert infos[NAME].detail == f"{NAME} could not be downloaded. It is not tried again for 300 s."
    turbo = infos["acestep-v15-turbo"]
    used, (warning,) = choose_model((turbo, infos[NAME]), NAME, strict=False)
    assert used == turbo
    assert warning == (
        f"model: {NAME} could not be loaded: {infos[NAME].detail} acestep-v15-turbo is used instead"
    )


def test_others_are_downloaded_meanwhile_and_a_success_ends_the_pause(
    downloads: Downloads, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise CheckpointError("No network.")

    monkeypatch.setattr(module, "fetch_for_server", fail)
    with pytest.raises(CheckpointError):
        downloads.fetch(NAME, quiet())
    monkeypatch.setattr(module, "fetch_for_server", lambda *_: None)
    downloads.fetch(NEW[1], quiet())
    clock.now += 300
    downloads.fetch(NAME, quiet())
    clock.now -= 200
    assert {info.state for info in downloads.infos(())} == {"absent"}
