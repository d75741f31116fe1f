"""Models that leave memory when they are idle, and those that come at the first request alone."""

from __future__ import annotations

import asyncio
import gc
import weakref
from dataclasses import replace
from itertools import repeat

import pytest

from acestep.background import BackgroundTasks
from acestep.domain.models import PlannerInfo
from acestep.engine.idle import IdlePolicy
from acestep.engine.model_entry import ModelEntry
from acestep.engine.model_manager import PRIMARY, ModelManager
from acestep.engine.planner_host import PlannerHost
from acestep.engine.renderer import Loaded, LoadedPlanner, OnLoading
from acestep.errors import CheckpointError, ModelUnavailableError
from acestep.files import AudioStore
from tests.engine.fakes import (
    INFO,
    FakeRenderer,
    loads,
    planner_host,
    request,
    running,
    unheard,
    until,
    wanted,
)
from tests.engine.models import BASE, SFT, TURBO, Folder, opened, states
from tests.engine.test_planning import MODEL, THINKING
from tests.planner.fakes import WalkingModel

SOON = IdlePolicy(idle_seconds=0.05)
LAZY = IdlePolicy(is_lazy=True)


@pytest.fixture
def folder() -> Folder:
    return Folder(TURBO, BASE, SFT)


class TestIdleModels:
    async def test_they_leave_and_come_again(self, folder):
        async with opened(ModelManager(folder.slots("turbo", "base"), idle_policy=SOON)) as model_manager:
            await model_manager.wait_ready()
            await until(lambda: states(model_manager) == {"turbo": "on_disk", "base": "on_disk"})
            assert all("idle" in info.detail and info.loads_on_demand for info in model_manager.infos())
            async with model_manager.borrow(None) as (model, notes):
                assert (model.info.name, notes) == ("turbo", ())
                assert states(model_manager) == {"turbo": "ready", "base": "on_disk"}
        assert folder.loads == ["turbo", "base", "turbo"]

    async def test_who_is_at_work_stays(self, folder):
        async with opened(ModelManager(folder.slots("turbo", "base"), idle_policy=SOON)) as model_manager:
            async with model_manager.borrow("turbo"):
                await until(lambda: states(model_manager)["base"] == "on_disk")
                await asyncio.sleep(0.1)
                assert states(model_manager)["turbo"] == "ready"
            await until(lambda: states(model_manager)["turbo"] == "on_disk")

    async def test_guests_leave_too(self, folder):
        async with opened(
            ModelManager(folder.slots("turbo"), folder, room=2, idle_policy=SOON)
        ) as model_manager:
            async with model_manager.borrow("sft") as (model, _):
                assert model.info.name == "sft"
            await until(lambda: set(states(model_manager).values()) == {"on_disk"})

    async def test_the_default_can_be_had_when_it_made_room_for_a_guest(self, folder):
        async with opened(ModelManager(folder.slots("turbo"), folder, room=1)) as model_manager:
            await model_manager.wait_ready()
            async with model_manager.borrow("sft"):
                assert (model_manager.primary.state, model_manager.primary.loads_on_demand) == (
                    "on_disk",
                    True,
                )

    async def test_nothing_is_left_of_them_when_memory_is_freed(self):
        there: list[weakref.ref[FakeRenderer]] = []
        seen: list[int] = []

        def load(on_loading: OnLoading) -> Loaded:
            renderer = FakeRenderer()
            there.append(weakref.ref(renderer))
            return Loaded(replace(INFO, state="ready"), renderer)

        def free() -> None:
            gc.collect()
            seen.append(sum(ref() is not None for ref in there))

        model_manager = ModelManager(
            {PRIMARY: ModelEntry(INFO, load)}, idle_policy=IdlePolicy(free=free, idle_seconds=0.05)
        )
        async with opened(model_manager):
            await model_manager.wait_ready()
            await until(lambda: states(model_manager) == {"hum": "on_disk"} and len(seen) > 1)
        assert seen[1:] == [0]

    async def test_a_watch_that_breaks_is_told_and_goes_on(self, folder):
        broken = [RuntimeError("the driver is gone")]

        def free() -> None:
            if broken and folder.loads == ["turbo", "base"]:
                raise broken.pop()

        tasks = BackgroundTasks(lambda: repeat(0.2))
        policy = replace(SOON, free=free, tasks=tasks)
        async with opened(ModelManager(folder.slots("turbo", "base"), idle_policy=policy)) as model_manager:
            await until(lambda: "'idle model watch' broke: RuntimeError" in tasks.trouble())
            await until(lambda: states(model_manager) == {"turbo": "on_disk", "base": "on_disk"})
        assert tasks.trouble() == ""

    async def test_what_comes_no_more_says_so_and_is_tried_again(self, folder):
        async with opened(ModelManager(folder.slots("turbo"), idle_policy=SOON)) as model_manager:
            await model_manager.wait_ready()
            await until(lambda: states(model_manager) == {"turbo": "on_disk"})
            folder.broken["turbo"] = "The disk is gone."
            with pytest.raises(ModelUnavailableError, match="The disk is gone"):
                async with model_manager.borrow(None):
                    pass
            del folder.broken["turbo"]
            async with model_manager.borrow(None) as (model, _):
                assert model.info.name == "turbo"

    async def test_a_model_without_room_says_so_and_frees_what_came(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("acestep.engine.threads.MEMORY_DELAYS", (0.0, 0.0))
        freed: list[int] = []

        def load(on_loading: OnLoading) -> Loaded:
            raise MemoryError

        model_manager = ModelManager(
            {PRIMARY: ModelEntry(INFO, load)}, idle_policy=IdlePolicy(free=lambda: freed.append(1))
        )
        async with opened(model_manager):
            await until(lambda: states(model_manager) == {"hum": "failed"})
            assert "Out of memory at stage load: the model hum is too large" in model_manager.primary.detail
        assert len(freed) == 3 * 2  # before it came, and after, each time

    async def test_without_a_time_they_stay(self, folder):
        async with opened(ModelManager(folder.slots("turbo"))) as model_manager:
            await model_manager.wait_ready()
            await asyncio.sleep(0.1)
            assert states(model_manager) == {"turbo": "ready"}
            assert not model_manager.primary.loads_on_demand


class TestLazyModels:
    async def test_nothing_is_loaded_until_it_is_wanted(self, folder):
        async with opened(ModelManager(folder.slots("turbo", "base"), idle_policy=LAZY)) as model_manager:
            async with asyncio.timeout(10):
                await model_manager.wait_ready()
            assert states(model_manager) == {"turbo": "on_disk", "base": "on_disk"}
            assert folder.loads == []
            async with model_manager.borrow("base") as (model, notes):
                assert (model.info.name, notes) == ("base", ())
        assert folder.loads == ["base"]

    async def test_a_song_brings_its_model(self, files: AudioStore, renderer: FakeRenderer):
        async with running(files, loads(renderer), idle_policy=LAZY) as engine:
            await engine.wait_ready()
            (song,) = await engine.run(request(seeds=(5,)), unheard, wanted)
            assert (song.plan.seed, engine.models()[0].state) == (5, "ready")

    async def test_what_cannot_be_loaded_has_failed(self, folder):
        folder.broken["turbo"] = "Its weights are cut short."
        async with opened(ModelManager(folder.slots("turbo"), idle_policy=LAZY)) as model_manager:
            with pytest.raises(ModelUnavailableError, match="cut short"):
                async with model_manager.borrow(None):
                    pass
            assert states(model_manager) == {"turbo": "failed"}

    async def test_what_is_to_be_downloaded_says_so(self):
        far = ModelEntry(replace(INFO, state="downloading"), loads(FakeRenderer()))
        async with opened(ModelManager({PRIMARY: far}, idle_policy=LAZY)) as model_manager:
            assert (model_manager.primary.state, model_manager.primary.detail[:24]) == (
                "on_disk",
                "It is downloaded and loa",
            )


def planner_desk(idle_policy: IdlePolicy, rendered: list[weakref.ref[WalkingModel]]) -> PlannerHost:
    """With a planner that is made anew at each loading."""

    def load(on_loading: OnLoading) -> LoadedPlanner:
        model = WalkingModel()
        rendered.append(weakref.ref(model))
        return LoadedPlanner(model, "toy")

    return planner_host(PlannerInfo("acestep-5Hz-lm-toy", "loading"), load, idle_policy=idle_policy)


class TestPlanner:
    async def test_it_leaves_and_comes_again(self, files: AudioStore):
        rendered: list[weakref.ref[WalkingModel]] = []
        host = planner_desk(SOON, rendered)
        async with running(files, loads(FakeRenderer(), MODEL), MODEL, host) as engine:
            for times in (1, 2):
                (song,) = await engine.run(request(seeds=(3,), planner=THINKING), unheard, wanted)
                assert song.lm_model == "acestep-5Hz-lm-toy" and len(rendered) == times
                await until(lambda: host.known.info().state == "on_disk")
                assert host.known.info().is_usable and host.known.info().loads_on_demand
                await until(lambda: rendered[-1]() is None)

    async def test_it_stays_while_it_is_needed(self):
        host = planner_desk(SOON, [])
        await host.start()
        async with host.borrow():
            await asyncio.sleep(0.15)
            assert host.known.info().state == "ready"
        await until(lambda: host.known.info().state == "on_disk")
        await host.close()

    async def test_a_lazy_one_comes_at_the_first_request(self):
        rendered: list[weakref.ref[WalkingModel]] = []
        host = planner_desk(LAZY, rendered)
        await host.start()
        await asyncio.sleep(0)
        assert (host.known.info().state, host.known.info().is_usable, rendered) == ("on_disk", True, [])
        async with host.borrow() as planner:
            assert planner.name == "acestep-5Hz-lm-toy"
        assert host.known.info().state == "ready"
        await host.close()

    async def test_one_that_is_there_if_needed_alone_comes_at_the_first_request(self):
        host = planner_host(
            PlannerInfo("toy", "loading", only_if_needed=True),
            lambda _: LoadedPlanner(WalkingModel(), "toy"),
        )
        await host.start()
        await asyncio.sleep(0)
        assert (host.known.info().state, host.known.info().is_usable, host.known.info().fills_in) == (
            "on_disk",
            True,
            False,
        )
        async with host.borrow():
            assert host.known.info().state == "ready"
        assert not host.known.info().fills_in
        await host.close()

    async def test_one_that_worked_once_may_work_again(self):
        attempts: list[int] = []

        def load(on_loading: OnLoading) -> LoadedPlanner:
            attempts.append(1)
            if len(attempts) == 2:
                raise CheckpointError("No room.")
            return LoadedPlanner(WalkingModel(), "toy")

        host = planner_host(PlannerInfo("toy", "loading"), load, idle_policy=SOON)
        await host.start()
        await until(lambda: host.known.info().state == "on_disk")
        with pytest.raises(Exception, match="No room"):
            async with host.borrow():
                pass
        async with host.borrow() as planner:
            assert planner.name == WalkingModel().name
        await host.close()
