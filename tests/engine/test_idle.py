"""Models that leave memory when they are idle, and those that come at the first request alone."""

from __future__ import annotations

import asyncio
import gc
import weakref
from dataclasses import replace

import pytest

from acestep.domain.models import PlannerInfo
from acestep.engine.idle import Upkeep
from acestep.engine.model_manager import PRIMARY, ModelShelf, Slot
from acestep.engine.planner_host import LoadedPlanner, PlannerDesk
from acestep.engine.renderer import Loaded, OnLoading
from acestep.errors import CheckpointError, ModelUnavailableError
from acestep.files import AudioStore
from tests.engine.fakes import INFO, FakeRenderer, loads, request, running, unheard, until, wanted
from tests.engine.test_model_manager import BASE, SFT, TURBO, Folder, opened, states
from tests.engine.test_planning import MODEL, THINKING
from tests.planner.fakes import WalkingModel

SOON = Upkeep(idle_seconds=0.05)
LAZY = Upkeep(is_lazy=True)


@pytest.fixture
def folder() -> Folder:
    return Folder(TURBO, BASE, SFT)


class TestIdleModels:
    async def test_they_leave_and_come_again(self, folder):
        async with opened(ModelShelf(folder.slots("turbo", "base"), upkeep=SOON)) as shelf:
            await shelf.wait_ready()
            await until(lambda: states(shelf) == {"turbo": "on_disk", "base": "on_disk"})
            assert all("idle" in info.detail and info.comes_when_wanted for info in shelf.infos())
            async with shelf.borrow(None) as (model, notes):
                assert (model.info.name, notes) == ("turbo", ())
                assert states(shelf) == {"turbo": "ready", "base": "on_disk"}
        assert folder.loads == ["turbo", "base", "turbo"]

    async def test_who_is_at_work_stays(self, folder):
        async with opened(ModelShelf(folder.slots("turbo", "base"), upkeep=SOON)) as shelf:
            async with shelf.borrow("turbo"):
                await until(lambda: states(shelf)["base"] == "on_disk")
                await asyncio.sleep(0.1)
                assert states(shelf)["turbo"] == "ready"
            await until(lambda: states(shelf)["turbo"] == "on_disk")

    async def test_guests_leave_too(self, folder):
        async with opened(ModelShelf(folder.slots("turbo"), folder, room=2, upkeep=SOON)) as shelf:
            async with shelf.borrow("sft") as (model, _):
                assert model.info.name == "sft"
            await until(lambda: set(states(shelf).values()) == {"on_disk"})

    async def test_the_default_can_be_had_when_it_made_room_for_a_guest(self, folder):
        async with opened(ModelShelf(folder.slots("turbo"), folder, room=1)) as shelf:
            await shelf.wait_ready()
            async with shelf.borrow("sft"):
                assert (shelf.primary.state, shelf.primary.comes_when_wanted) == ("on_disk", True)

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

        shelf = ModelShelf({PRIMARY: Slot(INFO, load)}, upkeep=Upkeep(free=free, idle_seconds=0.05))
        async with opened(shelf):
            await shelf.wait_ready()
            await until(lambda: states(shelf) == {"hum": "on_disk"} and len(seen) > 1)
        assert seen[1:] == [0]

    async def test_what_comes_no_more_says_so_and_is_tried_again(self, folder):
        async with opened(ModelShelf(folder.slots("turbo"), upkeep=SOON)) as shelf:
            await shelf.wait_ready()
            await until(lambda: states(shelf) == {"turbo": "on_disk"})
            folder.broken["turbo"] = "The disk is gone."
            with pytest.raises(ModelUnavailableError, match="The disk is gone"):
                async with shelf.borrow(None):
                    pass
            del folder.broken["turbo"]
            async with shelf.borrow(None) as (model, _):
                assert model.info.name == "turbo"

    async def test_a_model_without_room_says_so_and_frees_what_came(self):
        freed: list[int] = []

        def load(on_loading: OnLoading) -> Loaded:
            raise MemoryError

        shelf = ModelShelf({PRIMARY: Slot(INFO, load)}, upkeep=Upkeep(free=lambda: freed.append(1)))
        async with opened(shelf):
            await until(lambda: states(shelf) == {"hum": "failed"})
            assert "Out of memory at stage load: the model hum is too large" in shelf.primary.detail
        assert len(freed) == 2  # before it came, and after

    async def test_without_a_time_they_stay(self, folder):
        async with opened(ModelShelf(folder.slots("turbo"))) as shelf:
            await shelf.wait_ready()
            await asyncio.sleep(0.1)
            assert states(shelf) == {"turbo": "ready"}
            assert not shelf.primary.comes_when_wanted


class TestLazyModels:
    async def test_nothing_is_loaded_until_it_is_wanted(self, folder):
        async with opened(ModelShelf(folder.slots("turbo", "base"), upkeep=LAZY)) as shelf:
            async with asyncio.timeout(10):
                await shelf.wait_ready()
            assert states(shelf) == {"turbo": "on_disk", "base": "on_disk"}
            assert folder.loads == []
            async with shelf.borrow("base") as (model, notes):
                assert (model.info.name, notes) == ("base", ())
        assert folder.loads == ["base"]

    async def test_a_song_brings_its_model(self, files: AudioStore, renderer: FakeRenderer):
        async with running(files, loads(renderer), upkeep=LAZY) as engine:
            await engine.wait_ready()
            (song,) = await engine.run(request(seeds=(5,)), unheard, wanted)
            assert (song.plan.seed, engine.models()[0].state) == (5, "ready")

    async def test_what_cannot_be_loaded_has_failed(self, folder):
        folder.broken["turbo"] = "Its weights are cut short."
        async with opened(ModelShelf(folder.slots("turbo"), upkeep=LAZY)) as shelf:
            with pytest.raises(ModelUnavailableError, match="cut short"):
                async with shelf.borrow(None):
                    pass
            assert states(shelf) == {"turbo": "failed"}

    async def test_what_is_to_be_downloaded_says_so(self):
        far = Slot(replace(INFO, state="downloading"), loads(FakeRenderer()))
        async with opened(ModelShelf({PRIMARY: far}, upkeep=LAZY)) as shelf:
            assert (shelf.primary.state, shelf.primary.detail[:24]) == ("on_disk", "It is downloaded and loa")


def planner_desk(upkeep: Upkeep, made: list[weakref.ref[WalkingModel]]) -> PlannerDesk:
    """With a planner that is made anew at each loading."""

    def load(on_loading: OnLoading) -> LoadedPlanner:
        model = WalkingModel()
        made.append(weakref.ref(model))
        return LoadedPlanner(model, "toy")

    return PlannerDesk(PlannerInfo("acestep-5Hz-lm-toy", "loading"), load, upkeep=upkeep)


class TestPlanner:
    async def test_it_leaves_and_comes_again(self, files: AudioStore):
        made: list[weakref.ref[WalkingModel]] = []
        desk = planner_desk(SOON, made)
        async with running(files, loads(FakeRenderer(), MODEL), MODEL, desk) as engine:
            for times in (1, 2):
                (song,) = await engine.run(request(seeds=(3,), planner=THINKING), unheard, wanted)
                assert song.lm_model == "acestep-5Hz-lm-toy" and len(made) == times
                await until(lambda: desk.info().state == "on_disk")
                assert desk.info().is_usable and desk.info().comes_when_wanted
                await until(lambda: made[-1]() is None)

    async def test_it_stays_while_it_is_needed(self):
        desk = planner_desk(SOON, [])
        await desk.start()
        async with desk.borrow():
            await asyncio.sleep(0.15)
            assert desk.info().state == "ready"
        await until(lambda: desk.info().state == "on_disk")
        await desk.close()

    async def test_a_lazy_one_comes_at_the_first_request(self):
        made: list[weakref.ref[WalkingModel]] = []
        desk = planner_desk(LAZY, made)
        await desk.start()
        await asyncio.sleep(0)
        assert (desk.info().state, desk.info().is_usable, made) == ("on_disk", True, [])
        async with desk.borrow() as planner:
            assert planner.name == "acestep-5Hz-lm-toy"
        assert desk.info().state == "ready"
        await desk.close()

    async def test_one_that_is_there_if_needed_alone_comes_at_the_first_request(self):
        desk = PlannerDesk(
            PlannerInfo("toy", "loading", only_if_needed=True),
            lambda _: LoadedPlanner(WalkingModel(), "toy"),
        )
        await desk.start()
        await asyncio.sleep(0)
        assert (desk.info().state, desk.info().is_usable, desk.info().fills_in) == ("on_disk", True, False)
        async with desk.borrow():
            assert desk.info().state == "ready"
        assert not desk.info().fills_in
        await desk.close()

    async def test_one_that_worked_once_may_work_again(self):
        attempts: list[int] = []

        def load(on_loading: OnLoading) -> LoadedPlanner:
            attempts.append(1)
            if len(attempts) == 2:
                raise CheckpointError("No room.")
            return LoadedPlanner(WalkingModel(), "toy")

        desk = PlannerDesk(PlannerInfo("toy", "loading"), load, upkeep=SOON)
        await desk.start()
        await until(lambda: desk.info().state == "on_disk")
        with pytest.raises(Exception, match="No room"):
            async with desk.borrow():
                pass
        async with desk.borrow() as planner:
            assert planner.name == WalkingModel().name
        await desk.close()
