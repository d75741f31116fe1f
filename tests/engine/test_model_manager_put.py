"""Models that are put into slots, and how they count and move meanwhile."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from acestep.engine.idle import IdlePolicy
from acestep.engine.model_manager import PRIMARY, ModelManager
from acestep.errors import InvalidFieldError, ModelUnavailableError
from tests.engine.fakes import PATIENCE as SECONDS
from tests.engine.fakes import request, unheard, until, wanted
from tests.engine.models import BASE, SFT, TURBO, Folder, borrowed, opened, settle, states, working


@pytest.fixture
def folder() -> Folder:
    return Folder(TURBO, BASE, SFT)


class TestPutting:
    async def test_another_model_takes_a_slot_while_songs_are_made(self, files, folder):
        model_manager = ModelManager(folder.slots("turbo", "base"), folder)
        async with working(files, model_manager) as engine:
            folder.renderers["base"].hold()
            job = asyncio.create_task(engine.run(request(model="base"), unheard, wanted))
            await folder.renderers["base"].wait_begun()
            assert (await model_manager.put(2, "sft")).name == "sft"
            assert states(model_manager) == {"turbo": "ready", "sft": "ready"}
            folder.renderers["base"].release()
            assert (await job)[0].dit_model == "base"
            (song,) = await engine.run(request(model="base"), unheard, wanted)
            assert song.dit_model == "turbo" and "'base' is not loaded here" in song.warnings[0]
            assert (await engine.run(request(model="sft"), unheard, wanted))[0].dit_model == "sft"

    async def test_another_default_model(self, folder):
        async with opened(ModelManager(folder.slots("turbo"), folder)) as model_manager:
            await model_manager.put(PRIMARY, "base")
            (info,) = model_manager.infos()
            assert (info.name, info.is_default, model_manager.primary.name) == ("base", True, "base")
            assert await borrowed(model_manager, None) == ("base", ())

    async def test_an_empty_slot_is_filled(self, folder):
        async with opened(ModelManager(folder.slots("turbo"), folder)) as model_manager:
            await model_manager.put(3, "sft")
            await model_manager.put(2, "base")
            assert [(info.name, info.is_default) for info in model_manager.infos()] == [
                ("turbo", True),
                ("base", False),
                ("sft", False),
            ]

    async def test_one_that_fails_changes_nothing(self, folder):
        folder.broken["base"] = "Out of memory."
        async with opened(ModelManager(folder.slots("turbo"), folder)) as model_manager:
            await model_manager.wait_ready()
            with pytest.raises(ModelUnavailableError, match=r"base could not be loaded: Out of memory\."):
                await model_manager.put(PRIMARY, "base")
            assert states(model_manager) == {"turbo": "ready"}
            assert await borrowed(model_manager, None) == ("turbo", ())

    async def test_where_there_is_no_room_for_both_the_first_leaves_first(self, files, folder):
        folder.room = 1
        async with working(files, ModelManager(folder.slots("turbo"), folder)) as engine:
            model_manager = engine._model_manager
            folder.renderers["turbo"].hold()
            job = asyncio.create_task(engine.run(request(), unheard, wanted))
            await folder.renderers["turbo"].wait_begun()
            putting = asyncio.create_task(model_manager.put(PRIMARY, "base"))
            await until(lambda: states(model_manager) == {"base": "loading"})
            queued = asyncio.create_task(engine.run(request(), unheard, wanted))
            await asyncio.sleep(0.01)
            assert folder.loads == ["turbo"], "it waits for the song that is being made"
            folder.renderers["turbo"].release()
            assert (await putting).name == "base"
            assert [(await each)[0].dit_model for each in (job, queued)] == ["turbo", "base"]
            assert folder.loads == ["turbo", "base"]

    async def test_one_that_left_for_nothing_comes_back(self, files, folder):
        folder.room, folder.broken = 1, {"base": "Cut short."}
        async with working(files, ModelManager(folder.slots("turbo"), folder)) as engine:
            model_manager = engine._model_manager
            folder.go_on.clear()
            putting = asyncio.create_task(model_manager.put(PRIMARY, "base"))
            await until(lambda: states(model_manager) == {"base": "loading"})
            queued = asyncio.create_task(engine.run(request(), unheard, wanted))
            await asyncio.sleep(0.01)
            folder.go_on.set()
            with pytest.raises(ModelUnavailableError, match=r"base could not be loaded: Cut short\."):
                await putting
            assert (await queued)[0].dit_model == "turbo"
            assert states(model_manager) == {"turbo": "ready"}
            assert folder.loads == ["turbo", "base", "turbo"]

    async def test_what_has_no_room_beside_the_other_slots_is_refused(self, folder):
        folder.room = 1
        async with opened(ModelManager(folder.slots("turbo"), folder)) as model_manager:
            await model_manager.wait_ready()
            with pytest.raises(InvalidFieldError, match=r"^model: 'base' .*2 are too many"):
                await model_manager.put(2, "base")
            assert states(model_manager) == {"turbo": "ready"}

    async def test_limits_are_those_beside_whoever_is_or_comes_back_into_memory(self, folder):
        lazy = IdlePolicy(is_lazy=True)
        async with opened(
            ModelManager(folder.slots("turbo", "base"), folder, idle_policy=lazy)
        ) as model_manager:
            folder.asked.clear()
            assert await borrowed(model_manager, "base") == ("base", ())
            assert states(model_manager) == {"turbo": "on_disk", "base": "ready"}
            assert [info.name for info in model_manager.occupants()] == ["turbo", "base"]
            await model_manager.put(2, "sft")
            await model_manager.put(1, "base")
            assert folder.asked == [("sft", ["turbo"]), ("base", ["sft"])]
            assert [info.name for info in model_manager.occupants()] == ["base", "sft"]

    @pytest.mark.parametrize(
        ("number", "name"), [(2, "turbo"), (2, None), (1, "../base"), (1, "/base"), (1, "..")]
    )
    async def test_what_no_slot_takes(self, folder, number, name):
        async with opened(ModelManager(folder.slots("turbo"), folder)) as model_manager:
            with pytest.raises(InvalidFieldError, match=r"^model: "):
                await model_manager.put(number, name)
        assert set(folder.loads) <= {"turbo"}

    async def test_a_name_that_nobody_knows_lists_those_that_are_known(self, folder):
        async with opened(ModelManager(folder.slots("turbo"), folder)) as model_manager:
            with pytest.raises(InvalidFieldError, match="a published name, or one of turbo, base, sft"):
                await model_manager.put(2, "gpt")

    async def test_what_failed_is_loaded_again(self, folder):
        folder.broken |= {"turbo": "Out of memory.", "base": "Out of memory.", "sft": "Cut short."}
        async with opened(ModelManager(folder.slots("turbo", "base", "sft"), folder)) as model_manager:
            await until(lambda: set(states(model_manager).values()) == {"failed"})
            del folder.broken["turbo"], folder.broken["base"]
            assert await model_manager.reload() == ("turbo", "base")
            assert states(model_manager) == {"turbo": "ready", "base": "ready", "sft": "failed"}
            await asyncio.wait_for(model_manager.wait_ready(), SECONDS)
            assert await model_manager.reload() == ()


class TestCounting:
    """Every model in memory counts until it has left, whatever keeps it there."""

    async def test_one_that_was_replaced_counts_until_its_songs_end(self, folder):
        async with opened(ModelManager(folder.slots("turbo"), folder, room=2)) as model_manager:
            async with AsyncExitStack() as songs:
                async with model_manager.borrow("turbo"):
                    await model_manager.put(PRIMARY, "base")
                    await songs.enter_async_context(model_manager.borrow("base"))
                    assert [info.name for info in model_manager.occupants()] == ["base", "turbo"]
                    waiting = asyncio.create_task(borrowed(model_manager, "sft"))
                    await settle()
                    assert not waiting.done() and folder.loads == ["turbo", "base"]
                assert await waiting == ("sft", ())
            assert [info.name for info in model_manager.occupants()] == ["base", "sft"]
        assert folder.most == 2

    async def test_one_that_is_loaded_for_a_slot_counts_before_it_has_it(self, folder):
        async with opened(ModelManager(folder.slots("turbo"), folder, room=2)) as model_manager:
            await model_manager.wait_ready()
            folder.go_on.clear()
            putting = asyncio.create_task(model_manager.put(PRIMARY, "base"))
            await until(lambda: folder.loads == ["turbo", "base"])
            assert states(model_manager)["turbo"] == "ready"
            waiting = asyncio.create_task(borrowed(model_manager, "sft"))
            await until(lambda: states(model_manager)["turbo"] == "on_disk")
            folder.go_on.set()
            assert (await putting).name == "base"
            assert await waiting == ("sft", ())
        assert folder.most == 2

    async def test_a_slot_is_filled_once_a_replaced_model_has_left(self, folder):
        folder.room = 2
        async with opened(ModelManager(folder.slots("turbo"), folder)) as model_manager:
            async with model_manager.borrow("turbo"):
                await model_manager.put(PRIMARY, "base")
                putting = asyncio.create_task(model_manager.put(2, "sft"))
                await until(lambda: states(model_manager) == {"base": "ready", "sft": "loading"})
                await settle()
                assert folder.loads == ["turbo", "base"]
            assert (await putting).name == "sft"
        assert (folder.loads, folder.most) == (["turbo", "base", "sft"], 2)

    async def test_models_without_a_slot_leave_for_one_that_gets_one(self, folder):
        folder.room = 2
        async with opened(ModelManager(folder.slots("turbo"), folder, room=3)) as model_manager:
            assert await borrowed(model_manager, "base") == ("base", ())
            await model_manager.put(2, "sft")
            assert states(model_manager) == {"turbo": "ready", "sft": "ready", "base": "on_disk"}
        assert folder.most == 2

    async def test_a_request_for_a_model_that_has_to_leave_loads_it_anew(self, folder):
        folder.room = 1
        async with opened(ModelManager(folder.slots("turbo"), folder, room=2)) as model_manager:
            async with model_manager.borrow("turbo"):
                putting = asyncio.create_task(model_manager.put(PRIMARY, "base"))
                await until(lambda: model_manager.primary.name == "base")
                again = asyncio.create_task(borrowed(model_manager, "turbo"))
                await settle()
                assert not putting.done() and not again.done()
            assert (await putting).name == "base"
            assert await again == ("turbo", ())
        assert (folder.loads, folder.most) == (["turbo", "base", "turbo"], 1)

    async def test_a_model_that_was_dropped_is_not_kept(self, folder):
        async with opened(ModelManager(folder.slots("turbo"), folder)) as model_manager:
            await model_manager.wait_ready()
            await model_manager.put(PRIMARY, "base")
            assert folder.in_memory() == ["base"]


class TestMoving:
    """A model is loaded once: it moves to where it is asked for."""

    async def test_from_a_request_to_a_slot(self, folder):
        async with opened(ModelManager(folder.slots("turbo"), folder, room=2)) as model_manager:
            assert await borrowed(model_manager, "base") == ("base", ())
            assert (await model_manager.put(PRIMARY, "base")).is_default
            assert states(model_manager) == {"base": "ready", "turbo": "on_disk", "sft": "on_disk"}
            assert await borrowed(model_manager, None) == ("base", ())
        assert folder.loads == ["turbo", "base"]

    async def test_into_an_empty_slot_without_room_for_another(self, folder):
        folder.room = 2
        async with opened(ModelManager(folder.slots("turbo"), folder, room=2)) as model_manager:
            assert await borrowed(model_manager, "base") == ("base", ())
            await model_manager.put(2, "base")
            assert [info.name for info in model_manager.occupants()] == ["turbo", "base"]
        assert folder.loads == ["turbo", "base"]

    async def test_within_its_slot(self, folder):
        async with opened(ModelManager(folder.slots("turbo"), folder)) as model_manager:
            await model_manager.wait_ready()
            assert (await model_manager.put(PRIMARY, "turbo")).state == "ready"
        assert folder.loads == ["turbo"]

    @pytest.mark.parametrize(("room", "most"), [(1, 1), (2, 2)])
    async def test_without_a_name_it_is_loaded_again_and_both_count(self, folder, room, most):
        folder.room = room
        async with opened(ModelManager(folder.slots("turbo"), folder)) as model_manager:
            async with model_manager.borrow("turbo"):
                putting = asyncio.create_task(model_manager.put(PRIMARY))
                await until(lambda: len(model_manager.occupants()) == 2)
                if room == 2:
                    await putting
            assert (await putting).state == "ready"
            assert [info.name for info in model_manager.occupants()] == ["turbo"]
        assert (folder.loads, folder.most) == (["turbo", "turbo"], most)

    async def test_one_that_cannot_be_loaded_again_comes_back(self, folder):
        folder.room = 1
        async with opened(ModelManager(folder.slots("turbo"), folder)) as model_manager:
            await model_manager.wait_ready()
            folder.broken["turbo"] = "Cut short."
            with pytest.raises(ModelUnavailableError, match="Cut short"):
                await model_manager.put(PRIMARY)
            await until(lambda: model_manager.primary.state == "on_disk")
            folder.broken.clear()
            assert await borrowed(model_manager, None) == ("turbo", ())

    async def test_while_it_is_loaded_for_its_slot(self, folder):
        folder.go_on.clear()
        async with opened(ModelManager(folder.slots("turbo"), folder)) as model_manager:
            putting = asyncio.create_task(model_manager.put(PRIMARY, "turbo"))
            await until(lambda: folder.loads == ["turbo"])
            folder.go_on.set()
            assert (await putting).state == "ready"
        assert folder.loads == ["turbo"]

    @pytest.mark.parametrize("broken", [{}, {"base": "Out of memory."}], ids=["comes", "fails"])
    async def test_while_it_is_loaded_for_a_request(self, folder, broken):
        async with opened(ModelManager(folder.slots("turbo"), folder, room=2)) as model_manager:
            await model_manager.wait_ready()
            folder.broken |= broken
            folder.go_on.clear()
            song = asyncio.create_task(borrowed(model_manager, "base"))
            await until(lambda: folder.loads == ["turbo", "base"])
            putting = asyncio.create_task(model_manager.put(PRIMARY, "base"))
            await settle()
            folder.go_on.set()
            if broken:
                with pytest.raises(ModelUnavailableError, match="base could not be loaded: Out of memory"):
                    await putting
            else:
                assert (await putting).name == "base"
            assert (await song)[0] == ("turbo" if broken else "base")
            assert model_manager.primary.name == ("turbo" if broken else "base")
        assert folder.loads == ["turbo", "base"]

    async def test_back_into_a_slot_that_it_lost_while_its_song_runs(self, folder):
        async with opened(ModelManager(folder.slots("turbo"), folder)) as model_manager:
            async with model_manager.borrow("turbo"):
                await model_manager.put(PRIMARY, "base")
                assert (await model_manager.put(2, "turbo")).is_default is False
            assert states(model_manager) == {"base": "ready", "turbo": "ready"}
        assert folder.loads == ["turbo", "base"]

    async def test_from_a_lost_slot_to_a_request(self, folder):
        async with opened(ModelManager(folder.slots("turbo"), folder, room=2)) as model_manager:
            async with model_manager.borrow("turbo"):
                await model_manager.put(PRIMARY, "base")
                assert await borrowed(model_manager, "turbo") == ("turbo", ())
            assert states(model_manager) == {"base": "ready", "turbo": "ready", "sft": "on_disk"}
        assert folder.loads == ["turbo", "base"]

    async def test_a_model_that_left_memory_is_loaded_for_its_slot(self, folder):
        lazy = IdlePolicy(is_lazy=True)
        async with opened(ModelManager(folder.slots("turbo"), folder, idle_policy=lazy)) as model_manager:
            assert (await model_manager.put(PRIMARY)).state == "ready"
        assert folder.loads == ["turbo"]
