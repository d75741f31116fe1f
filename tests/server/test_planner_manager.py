"""Planners that come while the server runs."""

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from acestep.catalog.checkpoints import choose
from acestep.catalog.download import Order
from acestep.catalog.hubs import OnBytes, Pull
from acestep.catalog.planner_choice import NANO_PLANNER, NANO_PLANNER_FOLDER, PlannerChoice
from acestep.device.probes import Probes
from acestep.engine.idle import IdlePolicy
from acestep.engine.threads import Watchdog
from acestep.errors import InvalidFieldError, ModelUnavailableError, PlannerUnavailableError, StageStuckError
from acestep.memory.admission import MemoryLedger
from acestep.memory.decide import Decision, decide_for_server
from acestep.server import planner_manager
from acestep.server.planner_manager import DevicePlanner, PlannerManager
from acestep.settings.settings import Settings
from acestep.weights.shared_modules import SharedModules
from tests.live_server import LiveServer, WarmServer
from tests.planner.toy import Toy, rewrite_json, write_toy

GB = 2**30
PROBES = Probes(gpu_free=lambda _: 10 * GB, main_memory=lambda: 32 * GB, has_vllm=lambda: False)
NONE = PlannerChoice(detail="none is wanted")


pytestmark = pytest.mark.usefixtures("bare_environment")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    write_toy(folder / "one")
    write_toy(folder / "two", Toy(seed=1))
    rewrite_json(write_toy(folder / "broken") / "config.json", intermediate_size=32)
    (folder / "partial").mkdir()
    (folder / "partial" / "config.json").write_text("{}")
    return folder


class Server:
    """One device with a planner, if any, and what is heard of its memory plan."""

    def __init__(
        self,
        settings: Settings,
        choice: PlannerChoice = NONE,
        devices: int = 1,
        idle_policy: IdlePolicy | None = None,
    ) -> None:
        self.settings = settings
        nano = choose("acestep-nano", settings.checkpoints_dir, lambda: False, lambda: False)
        self.heard: list[Decision | None] = []
        self.device_planners = [
            DevicePlanner(
                settings,
                choice,
                MemoryLedger(decide_for_server(settings, [nano], choice, PROBES)),
                SharedModules(),
                idle_policy or IdlePolicy(),
            )
            for _ in range(devices)
        ]
        self.planners = PlannerManager(settings, "acestep-nano", self.device_planners, self.hear)

    def hear(self, memories: Sequence[Decision | None]) -> None:
        self.heard.extend(memories)

    def states(self) -> list[tuple[str, str]]:
        return [
            (device_planner.planner_pool.info().name, device_planner.planner_pool.info().state)
            for device_planner in self.device_planners
        ]

    async def __aenter__(self) -> "Server":
        for device_planner in self.device_planners:
            await device_planner.planner_pool.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        for device_planner in self.device_planners:
            await device_planner.planner_pool.close()


def at(folder: Path, **given: object) -> Settings:
    return Settings.load(folder, checkpoints_dir=folder, device="cpu", **given)


async def test_a_planner_comes_and_the_memory_plan_has_it(folder: Path) -> None:
    async with Server(at(folder)) as server:
        info = await server.planners.put("one")
        assert (info.name, info.state, info.backend) == ("one", "ready", "pt")
        assert [memory.plan.planner for memory in server.heard if memory] == ["one"]
        assert (await server.planners.put("two")).name == "two"
        assert [memory.plan.planner for memory in server.heard if memory] == ["one", "two"]
        assert await server.planners.put(None) == await server.planners.put("two")
        assert len(server.heard) == 2, "nothing had to be done"
        assert await server.planners.reload() == ()


async def test_one_that_is_there_if_needed_alone_becomes_one_that_fills_in(folder: Path) -> None:
    aside = PlannerChoice("one", folder / "one", only_if_needed=True)
    async with Server(at(folder), aside) as server:
        assert server.states() == [("one", "on_disk")]
        info = await server.planners.put(None)
        assert (info.name, info.state, info.fills_in) == ("one", "ready", True)


async def test_all_devices_have_the_same(folder: Path) -> None:
    async with Server(at(folder), devices=2) as server:
        await server.planners.put("one")
        assert server.states() == [("one", "ready")] * 2
        assert len(server.heard) == 2


@pytest.mark.parametrize("name", ["nobody", "partial", "/etc", "../one", ".", "one/"])
async def test_what_cannot_be_had_changes_nothing(folder: Path, name: str) -> None:
    async with Server(at(folder), PlannerChoice("one", folder / "one")) as server:
        for attempt in (server.planners.check, server.planners.put):
            with pytest.raises(InvalidFieldError, match=f"^lm_model_path: .*{NANO_PLANNER}") as caught:
                await attempt(name)
            assert str(folder) not in str(caught.value), "clients learn no paths of this machine"
        async with server.device_planners[0].planner_pool.borrow() as planner:
            assert planner.name == "one"
        assert server.heard == []


async def test_what_cannot_be_loaded_leaves_the_one_that_was_there(folder: Path) -> None:
    async with Server(at(folder), PlannerChoice("one", folder / "one"), devices=2) as server:
        await server.planners.check("broken")
        with pytest.raises(ModelUnavailableError, match=r"broken could not be loaded: .*shape"):
            await server.planners.put("broken")
        for device_planner in server.device_planners:
            async with device_planner.planner_pool.borrow() as planner:
                assert planner.name == "one"
            assert device_planner.memory is not None and device_planner.memory.plan.planner == "one"
        assert server.heard == []


async def test_none_named_is_the_one_of_the_settings(folder: Path) -> None:
    path = str(folder / "two")
    async with Server(at(folder, lm_model_path=path, init_llm=False)) as server:
        assert (await server.planners.put(None)).name == "two"
        assert (await server.planners.put("one")).name == "one"
        assert (await server.planners.put("two")).name == "two"
    async with Server(at(folder)) as server:
        await server.planners.check(None)
        assert (await server.planners.put(None)).name == NANO_PLANNER


async def test_one_without_room_is_refused(folder: Path) -> None:
    settings = Settings.load(folder, checkpoints_dir=folder, device="cuda", vram_budget=3)
    server = Server(settings)
    with pytest.raises(InvalidFieldError, match=r"acestep-5Hz-lm-4B.* GB are needed, and there are 3\.00 GB"):
        server.device_planners[0].planned(PlannerChoice("acestep-5Hz-lm-4B"))
    await server.planners.check("one")


async def test_a_planner_that_failed_is_loaded_again(tmp_path: Path) -> None:
    config = write_toy(tmp_path / "one") / "config.json"
    rewrite_json(config, intermediate_size=32)
    async with Server(at(tmp_path), PlannerChoice("one", tmp_path / "one")) as server:
        with pytest.raises(PlannerUnavailableError):
            async with server.device_planners[0].planner_pool.borrow():
                pass
        with pytest.raises(ModelUnavailableError):
            await server.planners.reload()
        assert server.states() == [("one", "failed")]
        rewrite_json(config, intermediate_size=Toy().intermediate)
        assert await server.planners.reload() == ("one",)
        assert server.states() == [("one", "ready")]


class SilentHub:
    """A hub that no byte comes from until it is let."""

    address = "a hub"

    def __init__(self) -> None:
        self.go_on = threading.Event()

    def reachable(self) -> bool:
        return True

    def pull(self, pull: Pull, on_bytes: OnBytes) -> None:
        assert self.go_on.wait(20)
        on_bytes(1)


async def test_a_planner_that_is_not_sent_changes_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub, far = SilentHub(), PlannerChoice("acestep-5Hz-lm-0.6B")
    order = Order(far.name, folder / "far", lambda: [hub])
    monkeypatch.setattr(planner_manager, "order_for", lambda *_: order)
    idle_policy = IdlePolicy(Watchdog(0.8))
    async with Server(at(folder), PlannerChoice("one", folder / "one"), idle_policy=idle_policy) as server:
        (device_planner,) = server.device_planners
        for _ in range(2):  # at once the second time
            with pytest.raises(StageStuckError, match="Stage download acestep-5Hz-lm"):
                await device_planner.fetched(far)
        assert not idle_policy.watchdog.trouble(), "songs are made"
        async with device_planner.planner_pool.borrow() as planner:
            assert planner.name == "one"
        hub.go_on.set()


def test_queued_songs_live_through_it(tmp_path: Path) -> None:
    """Over HTTP: songs wait, planners come and go, and all songs are made."""
    (tmp_path / "other").symlink_to(NANO_PLANNER_FOLDER)
    env = {"ACESTEP_CHECKPOINTS_DIR": str(tmp_path), "ACESTEP_INIT_LLM": "false"}
    song = {"prompt": "a piano", "audio_duration": 10, "inference_steps": 1, "batch_size": 1}
    with WarmServer(tmp_path / "data", env) as live:
        waiting = [live.submit(**song)]
        data = init(live, lm_model_path=NANO_PLANNER)
        assert (data["loaded_lm_model"], data["llm_initialized"]) == (NANO_PLANNER, True)
        assert data["loaded_model"] == "acestep-nano"
        memory = live.client.get("/v1/stats").json()["data"]["memory"]
        assert memory["lm_model"] == NANO_PLANNER
        assert "planner" in [part["name"] for part in memory["parts"]]
        live.wait_ready()
        waiting += [live.submit(**song, thinking=True) for _ in range(2)]
        assert init(live, init_llm=True, lm_model_path="other")["loaded_lm_model"] == "other"
        refused = live.client.post("/v1/init", json={"lm_model_path": "nobody"})
        assert (refused.status_code, refused.json()["extra"]["field"]) == (422, "lm_model_path")
        songs = [made for (made,) in live.wait_for(waiting)]
        assert [made["status"] for made in songs] == [1, 1, 1]
        assert {made["lm_model"] for made in songs[1:]} <= {NANO_PLANNER, "other"}
        assert live.client.post("/v1/reinitialize").json()["data"]["reloaded"] == []


def test_planners_come_on_demand(tmp_path: Path) -> None:
    """Over HTTP: each song is planned by who is named, the server's own planner where that is nobody."""
    other = "acestep-5Hz-lm-0.6B"
    (tmp_path / other).symlink_to(NANO_PLANNER_FOLDER)
    env = {"ACESTEP_CHECKPOINTS_DIR": str(tmp_path), "ACESTEP_ON_DEMAND_MODEL_LOAD": "true"}
    song = {"prompt": "a piano", "audio_duration": 10, "inference_steps": 1, "batch_size": 1}
    with WarmServer(tmp_path / "data", env) as live:
        live.wait_ready()
        names = ["", other, NANO_PLANNER, f"/models/{other}", "nobody"]
        waiting = [live.submit(**song, thinking=True, lm_model_path=name) for name in names]
        songs = [made for (made,) in live.wait_for(waiting)]
        own = NANO_PLANNER
        assert [made["lm_model"] for made in songs] == [own, other, own, other, own]
        said = [[each for each in made["warnings"] if "lm_model_path" in each] for made in songs]
        assert said[:4] == [[]] * 4
        assert said[4] == [f"lm_model_path: 'nobody' is not loaded here; {NANO_PLANNER} is used instead"]
        answer = live.client.post("/format_input", json={"prompt": "piano, 70 bpm", "lm_model_path": other})
        assert answer.json()["data"]["bpm"] == 70
        listed = live.client.get("/v1/models").json()["data"]
        assert listed["loaded_lm_model"] == other
        assert {each["name"]: each["state"] for each in listed["lm_models"]} == {
            NANO_PLANNER: "on_disk",
            other: "ready",
        }


async def test_who_has_no_room_does_not_come(folder: Path) -> None:
    settings = Settings.load(
        folder, checkpoints_dir=folder, device="cuda", vram_budget=3, on_demand_model_load=True
    )
    device_planner = Server(settings).device_planners[0]
    assert device_planner.host("one") is not None
    rewrite_json(write_toy(folder / "huge") / "config.json", num_hidden_layers=4_000_000)
    assert device_planner.host("huge") is None
    for name in ("partial", "nobody", "../one", str(folder / "one")):
        assert device_planner.host(name) is None


def init(live: LiveServer, **fields: object) -> dict[str, Any]:
    answer = live.client.post("/v1/init", json=fields)
    assert answer.status_code == 200, answer.text
    data: dict[str, Any] = answer.json()["data"]
    return data


@pytest.mark.parametrize(("budget", "name"), [(26, "acestep-5Hz-lm-4B"), (20, "acestep-5Hz-lm-1.7B")])
async def test_the_one_that_comes_by_itself_is_the_largest_with_room_on_every_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: float, name: str
) -> None:
    monkeypatch.setattr(planner_manager, "any_reachable", lambda source: False)
    turbo = choose("acestep-v15-turbo", tmp_path, lambda: True, lambda: True)
    device_planners = []
    for size in (26, budget):
        settings = Settings.load(
            tmp_path, checkpoints_dir=tmp_path, device="cuda", vram_budget=size, init_llm=False
        )
        ledger = MemoryLedger(decide_for_server(settings, [turbo], NONE, PROBES))
        device_planners.append(DevicePlanner(settings, NONE, ledger, SharedModules(), IdlePolicy()))
    planners = PlannerManager(settings, turbo.name, device_planners, lambda memories: None)
    with pytest.raises(InvalidFieldError):
        await planners.check(None)
    for each in ("0.6B", "1.7B", "4B"):
        write_toy(tmp_path / f"acestep-5Hz-lm-{each}")
    assert (await asyncio.to_thread(planners._choose, None)).name == name
    await planners.check(None)
