"""Which models are loaded, leave memory and are waited for; and songs of several models side by side."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace

import pytest

from acestep.domain.draft import DraftRequest
from acestep.engine.batching import MAX_OVERTAKES
from acestep.engine.engine import Engine
from acestep.engine.model_entry import ModelEntry
from acestep.engine.model_manager import ModelManager
from acestep.engine.renderer import Loaded, OnLoading
from acestep.errors import InvalidFieldError, ModelUnavailableError
from acestep.files import AudioStore
from tests.engine.fakes import PATIENCE as SECONDS
from tests.engine.fakes import request, unheard, until, wanted
from tests.engine.models import BASE, SFT, TURBO, Folder, borrowed, opened, states, working


@pytest.fixture
def folder() -> Folder:
    return Folder(TURBO, BASE, SFT)


class TestSlots:
    async def test_a_song_is_made_by_the_model_that_it_names(self, files, folder):
        async with working(files, ModelManager(folder.slots("turbo", "base"))) as engine:
            asked = [request(model=name) for name in (None, "base", "acestep/base", "turbo")]
            songs = [song for one in asked for song in await engine.run(one, unheard, wanted)]
        assert [song.dit_model for song in songs] == ["turbo", "base", "base", "turbo"]
        assert [song.plan.sampling.steps for song in songs] == [8, 50, 50, 8]
        assert [song.plan.sampling.shift for song in songs] == [3.0, 1.0, 1.0, 3.0]
        assert [len(folder.renderers[name].batches) for name in ("turbo", "base")] == [2, 2]
        assert all("loaded" not in warning for song in songs for warning in song.warnings)

    async def test_a_model_does_what_it_does_and_no_more(self, files, folder):
        async with working(files, ModelManager(folder.slots("turbo", "base"))) as engine:
            with pytest.raises(InvalidFieldError, match="extract"):
                await engine.run(request(task_type="extract"), unheard, wanted)

    async def test_the_default_works_while_others_are_loaded(self, files, folder):
        model_manager = ModelManager(folder.slots("turbo", "base"))
        async with working(files, model_manager) as engine:
            await until(lambda: folder.loads == ["turbo", "base"])
            folder.go_on.clear()
            assert (await engine.run(request(), unheard, wanted))[0].dit_model == "turbo"
            folder.go_on.set()

    async def test_a_song_waits_for_its_model(self, files: AudioStore, folder: Folder) -> None:
        held = threading.Event()
        slots = folder.slots("turbo", "base")
        load = slots[2].load
        assert load is not None

        def slow(on_loading: OnLoading) -> Loaded:
            assert held.wait(SECONDS)
            return load(on_loading)

        async with working(files, ModelManager(slots | {2: ModelEntry(BASE, slow)})) as engine:
            job = asyncio.create_task(engine.run(request(model="base"), unheard, wanted))
            await asyncio.sleep(0.02)
            held.set()
            assert (await job)[0].dit_model == "base"

    async def test_a_second_model_that_cannot_be_loaded(self, files, folder, caplog):
        folder.broken["base"] = "The file vae is cut short."
        model_manager = ModelManager(folder.slots("turbo", "base", "sft"))
        async with working(files, model_manager) as engine:
            await until(lambda: states(model_manager)["sft"] == "ready")
            _, base, _ = engine.models()
            assert (base.state, base.detail) == ("failed", "The file vae is cut short.")
            assert "base cannot be loaded. The file vae is cut short." in caplog.text
            (song,) = await engine.run(request(model="base"), unheard, wanted)
        assert song.dit_model == "turbo"
        assert song.warnings[0].startswith("model: base could not be loaded: The file vae is cut short")

    async def test_a_model_that_fails_while_a_song_waits_for_it(self, files, folder):
        folder.broken["base"] = "Out of memory."
        folder.go_on.clear()
        model_manager = ModelManager(folder.slots("turbo", "base"))
        async with opened(model_manager):
            waiting = asyncio.create_task(borrowed(model_manager, "base"))
            await asyncio.sleep(0.02)
            folder.go_on.set()
            name, (note,) = await waiting
        assert name == "turbo"
        assert note == "model: turbo is used instead of base, which could not be loaded: Out of memory."

    async def test_without_its_default_model_a_shelf_lends_nothing(self, folder):
        folder.broken["turbo"] = "Nothing there."
        async with opened(ModelManager(folder.slots("turbo"))) as model_manager:
            with pytest.raises(ModelUnavailableError, match="turbo could not be loaded: Nothing there"):
                await borrowed(model_manager, None)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(model_manager.wait_ready(), 0.02)

    async def test_a_slot_that_nothing_is_known_for_has_failed(self, folder):
        missing = replace(BASE, state="failed", detail="There is no model 'base'.")
        async with opened(ModelManager(folder.slots("turbo") | {2: ModelEntry(missing)})) as model_manager:
            await model_manager.wait_ready()
            await until(lambda: states(model_manager) == {"turbo": "ready", "base": "failed"})
            assert model_manager.infos()[1].detail == "There is no model 'base'."

    async def test_what_only_lies_on_disk_is_listed_apart(self, folder):
        async with opened(ModelManager(folder.slots("turbo"), folder)) as model_manager:
            assert [info.name for info in model_manager.infos()] == ["turbo"]
            assert [(info.name, info.state) for info in model_manager.inventory()[1:]] == [
                ("base", "on_disk"),
                ("sft", "on_disk"),
            ]
            name, (note,) = await borrowed(model_manager, "base")
            assert name == "turbo" and "'base' is not loaded here" in note


class TestFailedDefault:
    """Other models serve the requests that name them; the rest ends with the reason."""

    @pytest.fixture(autouse=True)
    def _break_the_default(self, folder):
        folder.broken["turbo"] = "Nothing there."

    async def test_songs_that_name_a_loaded_model_are_made(self, files, folder):
        async with working(files, ModelManager(folder.slots("turbo", "base"))) as engine:
            (song,) = await engine.run(request(model="base"), unheard, wanted)
            for name in (None, "turbo", "sft"):
                with pytest.raises(ModelUnavailableError) as refused:
                    await engine.run(request(model=name), unheard, wanted)
                assert str(refused.value) == "turbo could not be loaded: Nothing there"
        assert song.dit_model == "base"

    async def test_songs_that_name_a_model_on_disk_are_made(self, files, folder):
        async with working(files, ModelManager(folder.slots("turbo"), folder, room=1)) as engine:
            (song,) = await engine.run(request(model="base"), unheard, wanted)
            with pytest.raises(ModelUnavailableError, match="turbo could not be loaded: Nothing there"):
                await engine.run(request(), unheard, wanted)
        assert song.dit_model == "base"

    async def test_a_model_that_fails_while_a_song_waits_for_it_gives_its_own_reason(self, folder):
        folder.broken["base"] = "Out of memory."
        async with opened(ModelManager(folder.slots("turbo"), folder, room=1)) as model_manager:
            await model_manager.wait_ready()
            with pytest.raises(ModelUnavailableError) as refused:
                await borrowed(model_manager, "base")
        assert str(refused.value) == "base could not be loaded: Out of memory."

    async def test_nothing_is_ready_where_everything_failed(self, folder):
        folder.broken["base"] = "Out of memory."
        async with opened(ModelManager(folder.slots("turbo", "base"))) as model_manager:
            ready = asyncio.create_task(model_manager.wait_ready())
            await until(lambda: states(model_manager) == {"turbo": "failed", "base": "failed"})
            with pytest.raises(ModelUnavailableError) as refused:
                await borrowed(model_manager, "base")
            assert str(refused.value) == (
                "base could not be loaded: Out of memory; turbo could not be loaded: Nothing there"
            )
            assert not ready.done()
            del folder.broken["base"]
            assert await model_manager.reload() == ("base",)
            await asyncio.wait_for(ready, SECONDS)

    async def test_a_model_on_disk_waits_for_the_default_to_be_tried(self, folder):
        folder.go_on.clear()
        async with opened(ModelManager(folder.slots("turbo"), folder, room=1)) as model_manager:
            ready = asyncio.create_task(model_manager.wait_ready())
            await until(lambda: folder.loads == ["turbo"])
            assert not ready.done()
            folder.go_on.set()
            await asyncio.wait_for(ready, SECONDS)

    async def test_what_is_to_be_described_ends_with_the_reason_too(self, files, folder):
        async with working(files, ModelManager(folder.slots("turbo", "base"))) as engine:
            with pytest.raises(ModelUnavailableError, match="turbo could not be loaded: Nothing there"):
                await engine.draft(DraftRequest("understand", audio_path="song.wav"), wanted)


class TestOrder:
    async def test_songs_of_the_model_at_work_go_first_but_not_for_ever(self, files, folder):
        turbo, base = folder.renderers["turbo"], folder.renderers["base"]
        order: list[str] = []
        turbo.on_decode = lambda plan: order.append(f"turbo {plan.seed}")
        base.on_decode = lambda plan: order.append(f"base {plan.seed}")
        async with working(files, ModelManager(folder.slots("turbo", "base"))) as engine:
            assert (await borrowed(engine._model_manager, "base"))[0] == "base"
            turbo.hold()
            jobs = [_start(engine, 0, "turbo")]
            await turbo.wait_begun()
            # Every song has a length of its own, so that each is a batch.
            jobs += [_start(engine, n, "base" if n == 1 else "turbo") for n in range(1, MAX_OVERTAKES + 3)]
            await asyncio.sleep(0.05)
            turbo.release()
            await asyncio.gather(*jobs)
        before = order.index("base 1")
        assert order[:before] == [f"turbo {n}" for n in (0, *range(2, MAX_OVERTAKES + 2))]


def _start(engine: Engine, seed: int, model: str) -> asyncio.Task[object]:
    asked = request(seeds=(seed,), duration=10.0 + seed, model=model)
    return asyncio.create_task(engine.run(asked, unheard, wanted))
