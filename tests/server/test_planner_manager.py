"""Planners that are replaced, or loaded on demand, while the server runs."""

import asyncio
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from acestep.catalog.checkpoints import choose
from acestep.catalog.download import Order
from acestep.catalog.hubs import OnBytes, Pull
from acestep.catalog.planner_choice import NANO_PLANNER, PlannerChoice
from acestep.device.probes import Probes
from acestep.engine.idle import IdlePolicy
from acestep.errors import (
    InvalidFieldError,
    ModelUnavailableError,
    PlannerUnavailableError,
    StageStuckError,
)
from acestep.memory.admission import MemoryLedger
from acestep.memory.decide import Decision, decide_for_server
from acestep.server import planner_manager
from acestep.server.planner_manager import DevicePlanner, PlannerManager
from acestep.settings.settings import Settings
from acestep.weights.shared_modules import SharedModules
from tests.planner.toy import Toy, rewrite_json, write_toy

GB = 2**30
PROBES = Probes(gpu_free=lambda _: 10 * GB, main_memory=lambda: 32 * GB, has_vllm=lambda: False)
NONE = PlannerChoice(detail="none is wanted")


pytestmark = pytest.mark.usefixtures("bare_environment")


class Server:
    """Devices with a planner each, and the memory plans that the server was told of."""

    def __init__(self, settings: Settings, choice: PlannerChoice = NONE, devices: int = 1) -> None:
        self.settings = settings
        nano = choose("acestep-nano", settings.checkpoints_dir, lambda: False, lambda: False)
        self.told: list[Decision | None] = []
        self.devices = [
            DevicePlanner(
                settings,
                choice,
                MemoryLedger(decide_for_server(settings, [nano], choice, PROBES)),
                SharedModules(),
                IdlePolicy(),
            )
            for _ in range(devices)
        ]
        self.planners = PlannerManager(settings, "acestep-nano", self.devices, self.told.extend)

    def states(self) -> list[tuple[str, str]]:
        infos = [device.host.known.info() for device in self.devices]
        return [(info.name, info.state) for info in infos]

    async def planners_and_plans(self) -> list[tuple[str, str]]:
        """The name of each device's planner, by what it writes with, and by its memory plan."""
        found = []
        for device in self.devices:
            async with device.host.borrow() as planner:
                assert device.memory is not None
                found.append((planner.name, device.memory.plan.planner))
        return found

    async def __aenter__(self) -> "Server":
        for device in self.devices:
            await device.host.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.planners.close()
        for device in self.devices:
            await device.host.close()


def at(folder: Path, **given: object) -> Settings:
    return Settings.load(folder, checkpoints_dir=folder, device="cpu", **given)


async def test_the_memory_plan_includes_the_new_planner(folder: Path) -> None:
    async with Server(at(folder)) as server:
        info = await server.planners.put("one")
        assert (info.name, info.state, info.backend) == ("one", "ready", "pt")
        assert [memory.plan.planner for memory in server.told if memory] == ["one"]
        assert (await server.planners.put("two")).name == "two"
        assert [memory.plan.planner for memory in server.told if memory] == ["one", "two"]
        assert await server.planners.put(None) == await server.planners.put("two")
        assert len(server.told) == 2, "nothing had to be done"
        assert await server.planners.reload() == ()


async def test_a_planner_used_only_if_needed_becomes_one_that_fills_in(folder: Path) -> None:
    aside = PlannerChoice("one", folder / "one", only_if_needed=True)
    async with Server(at(folder), aside) as server:
        assert server.states() == [("one", "on_disk")]
        info = await server.planners.put(None)
        assert (info.name, info.state, info.fills_in) == ("one", "ready", True)


async def test_all_devices_have_the_same_planner(folder: Path) -> None:
    async with Server(at(folder), devices=2) as server:
        await server.planners.put("one")
        assert server.states() == [("one", "ready")] * 2
        assert len(server.told) == 2


@pytest.mark.parametrize("name", ["nobody", "partial", "/etc", "../one", ".", "one/"])
async def test_an_unknown_name_changes_nothing(folder: Path, name: str) -> None:
    async with Server(at(folder), PlannerChoice("one", folder / "one")) as server:
        for attempt in (server.planners.check, server.planners.put):
            with pytest.raises(InvalidFieldError, match=f"^lm_model_path: .*{NANO_PLANNER}") as caught:
                await attempt(name)
            assert str(folder) not in str(caught.value), "clients learn no paths of this machine"
        async with server.devices[0].host.borrow() as planner:
            assert planner.name == "one"
        assert server.told == []


async def test_if_loading_fails_planner_and_memory_plan_are_as_before(folder: Path) -> None:
    async with Server(at(folder), PlannerChoice("one", folder / "one"), devices=2) as server:
        await server.planners.check("broken")
        with pytest.raises(ModelUnavailableError, match=r"broken could not be loaded: .*shape"):
            await server.planners.put("broken")
        assert await server.planners_and_plans() == [("one", "one")] * 2
        assert server.told == []


async def test_without_a_name_the_settings_decide(folder: Path) -> None:
    path = str(folder / "two")
    async with Server(at(folder, lm_model_path=path, init_llm=False)) as server:
        assert (await server.planners.put(None)).name == "two"
        assert (await server.planners.put("one")).name == "one"
        assert (await server.planners.put("two")).name == "two"
    async with Server(at(folder)) as server:
        await server.planners.check(None)
        assert (await server.planners.put(None)).name == NANO_PLANNER


async def test_a_planner_without_room_is_refused(folder: Path) -> None:
    settings = Settings.load(folder, checkpoints_dir=folder, device="cuda", vram_budget=3)
    server = Server(settings)
    with pytest.raises(InvalidFieldError, match=r"acestep-5Hz-lm-4B.* GB are needed, and there are 3\.00 GB"):
        server.devices[0].planned(PlannerChoice("acestep-5Hz-lm-4B"))
    await server.planners.check("one")


async def test_a_planner_that_failed_is_loaded_again(tmp_path: Path) -> None:
    config = write_toy(tmp_path / "one") / "config.json"
    rewrite_json(config, intermediate_size=32)
    async with Server(at(tmp_path), PlannerChoice("one", tmp_path / "one")) as server:
        with pytest.raises(PlannerUnavailableError):
            async with server.devices[0].host.borrow():
                pass
        with pytest.raises(ModelUnavailableError):
            await server.planners.reload()
        assert server.states() == [("one", "failed")]
        rewrite_json(config, intermediate_size=Toy().intermediate)
        assert await server.planners.reload() == ("one",)
        assert server.states() == [("one", "ready")]


class SilentHub:
    """A hub that sends no byte until the test lets it."""

    address = "a hub"

    def __init__(self) -> None:
        self.go_on = threading.Event()

    def reachable(self) -> bool:
        return True

    def pull(self, pull: Pull, on_bytes: OnBytes) -> None:
        assert self.go_on.wait(20)
        on_bytes(1)


async def test_a_stuck_download_changes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub, name = SilentHub(), "acestep-5Hz-lm-0.6B"
    monkeypatch.setattr(planner_manager, "any_reachable", lambda _: True)
    monkeypatch.setattr(planner_manager, "order_for", lambda *_: Order(name, folder / "far", lambda: [hub]))
    settings = at(folder, stage_timeout=0.8)
    async with Server(settings, PlannerChoice("one", folder / "one")) as server:
        for _ in range(2):  # the second fails at once
            with pytest.raises(StageStuckError, match="Stage download acestep-5Hz-lm"):
                await server.planners.put(name)
        assert await server.planners_and_plans() == [("one", "one")]
        hub.go_on.set()


async def test_a_planner_without_room_is_not_loaded_on_demand(folder: Path) -> None:
    settings = Settings.load(
        folder, checkpoints_dir=folder, device="cuda", vram_budget=3, on_demand_model_load=True
    )
    device = Server(settings).devices[0]
    assert device.find("one") is not None
    rewrite_json(write_toy(folder / "huge") / "config.json", num_hidden_layers=4_000_000)
    assert device.find("huge") is None
    for name in ("partial", "nobody", "../one", str(folder / "one")):
        assert device.find(name) is None


async def test_room_is_searched_again_only_where_the_result_may_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings.load(
        tmp_path, checkpoints_dir=tmp_path, device="cuda", vram_budget=3, on_demand_model_load=True
    )
    config = write_toy(tmp_path / "huge") / "config.json"
    device = Server(settings).devices[0]
    searches: list[str] = []

    def planned(choice: PlannerChoice) -> Decision | None:
        searches.append(choice.name)
        return device._ledger.with_planner(choice, settings, ())

    monkeypatch.setattr(device, "planned", planned)
    rewrite_json(config, num_hidden_layers=4_000_000)
    assert [device.find("huge") for _ in range(3)] == [None] * 3
    assert len(searches) == 1
    rewrite_json(config, num_hidden_layers=5_000_000)
    assert [device.find("huge") for _ in range(3)] == [None] * 3
    assert len(searches) == 2
    assert device.memory is not None
    device._ledger.decision = replace(device.memory, notes=("another plan",))
    assert [device.find("huge") for _ in range(3)] == [None] * 3
    assert len(searches) == 3
    rewrite_json(config, num_hidden_layers=2)
    assert device.find("huge") is not None


@pytest.mark.parametrize(("budget", "name"), [(26, "acestep-5Hz-lm-4B"), (20, "acestep-5Hz-lm-1.7B")])
async def test_the_default_planner_is_the_largest_with_room_on_every_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: float, name: str
) -> None:
    monkeypatch.setattr(planner_manager, "any_reachable", lambda source: False)
    turbo = choose("acestep-v15-turbo", tmp_path, lambda: True, lambda: True)
    devices = []
    for size in (26, budget):
        settings = Settings.load(
            tmp_path, checkpoints_dir=tmp_path, device="cuda", vram_budget=size, init_llm=False
        )
        ledger = MemoryLedger(decide_for_server(settings, [turbo], NONE, PROBES))
        devices.append(DevicePlanner(settings, NONE, ledger, SharedModules(), IdlePolicy()))
    planners = PlannerManager(settings, turbo.name, devices, lambda memories: None)
    with pytest.raises(InvalidFieldError):
        await planners.check(None)
    for each in ("0.6B", "1.7B", "4B"):
        write_toy(tmp_path / f"acestep-5Hz-lm-{each}")
    assert (await asyncio.to_thread(planners._choose, None)).name == name
    await planners.check(None)
