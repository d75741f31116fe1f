import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from acestep.catalog.adapters import AdapterFolder
from acestep.domain.models import ModelInfo
from acestep.domain.song import AdapterUse
from acestep.engine.engine import Engine
from acestep.engine.planning import plan_songs
from acestep.engine.renderer import Loaded
from acestep.engine.torch_models import LoadContext, load_model
from acestep.errors import CheckpointError
from acestep.files import AudioStore
from tests.adapter_folders import write_lora
from tests.engine.fakes import FakeRenderer, request, running, unheard, until, wanted
from tests.engine.test_torch_models import EXPECTED, write_checkpoint, write_sine_bank
from tests.synthesizer import toy

POP, JAZZ = (AdapterUse("pop"),), (AdapterUse("jazz", 0.5),)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    folder = tmp_path_factory.mktemp("toy")
    checkpoint = write_checkpoint(folder, write_sine_bank)
    loaded = load_model(checkpoint, "cpu", EXPECTED, LoadContext(AdapterFolder(folder / "lora")))
    transformer: Any = toy.write_published(tmp_path_factory.mktemp("again")).load().transformer
    write_lora(folder / "lora" / "pop", transformer, 1)
    write_lora(folder / "lora" / "jazz", transformer, 2)
    return loaded


def test_a_plan_has_the_adapters_of_its_request() -> None:
    model = ModelInfo("hum", False, 3, 7.0, 1.0, 50)
    (plan,) = plan_songs(request(adapters=(*POP, *JAZZ)), model)
    assert plan.adapters == (*POP, *JAZZ)


async def test_songs_with_other_adapters_are_not_in_the_batch(engine: Engine, renderer: FakeRenderer) -> None:
    asked = [
        request("a"),
        request("b", adapters=POP),
        request("c", adapters=JAZZ),
        request("d", adapters=POP),
    ]
    renderer.hold()
    jobs = [asyncio.create_task(engine.run(request("first", duration=20.0), unheard, wanted))]
    await renderer.wait_begun()
    jobs += [asyncio.create_task(engine.run(each, unheard, wanted)) for each in asked]
    await until(lambda: len(engine._pipeline._render._waiting) == len(asked))
    renderer.release()
    songs = await asyncio.gather(*jobs)
    batches = [[plan.caption for plan in batch] for batch in renderer.batches]
    assert batches == [["first"], ["a"], ["b", "d"], ["c"]]
    assert [song.plan.adapters for (song,) in songs] == [(), (), POP, JAZZ, POP]


class TestOnRealModules:
    @pytest.fixture
    async def engine(self, loaded: Loaded, tmp_path: Path) -> AsyncIterator[Engine]:
        files = AudioStore(tmp_path / "audio", b"s" * 32)
        async with running(files, lambda on_loading: loaded, EXPECTED) as engine:
            await engine.wait_ready()
            yield engine

    def test_what_shares_a_render_shares_its_adapters(self, loaded: Loaded) -> None:
        plans = [toy.song(), toy.song(adapters=POP)]
        with pytest.raises(ValueError, match="share their adapters"):
            loaded.renderer.render(plans, lambda done, of: None, lambda: False)

    async def test_a_song_after_others_is_the_song_before_them_to_the_bit(
        self, engine: Engine, tmp_path: Path
    ) -> None:
        async def sing(**fields: Any) -> bytes:
            asked = request("a song", **fields, sampler=replace(request().sampler, steps=2))
            (song,) = await engine.run(asked, unheard, wanted)
            assert song.plan.adapters == fields.get("adapters", ())
            return (tmp_path / "audio" / song.file).read_bytes()

        before = await sing()
        pop, jazz = await sing(adapters=POP), await sing(adapters=JAZZ)
        assert len({before, pop, jazz}) == 3
        assert await sing() == before
        together = await asyncio.gather(
            *(sing(), sing(adapters=JAZZ), sing(), sing(adapters=POP), sing(adapters=(*POP, *JAZZ)))
        )
        assert together[1] == jazz
        assert together[3] == pop
        for again in (together[0], together[2]):
            first, second = (np.frombuffer(data[44:], "<i2") / 32768 for data in (before, again))
            np.testing.assert_allclose(second, first, atol=1e-3)  # these two shared a batch
        assert await sing(adapters=(*POP, *JAZZ)) == together[4]
        assert await sing() == before

    async def test_an_adapter_that_is_gone_fails_its_job_alone(self, engine: Engine) -> None:
        gone = request("a song", adapters=(AdapterUse("folk"),))
        outcomes = await asyncio.gather(
            engine.run(gone, unheard, wanted),
            engine.run(request("a song", adapters=POP), unheard, wanted),
            return_exceptions=True,
        )
        assert isinstance(outcomes[0], CheckpointError)
        assert "There is no adapter 'folk'. There are: jazz, pop" in str(outcomes[0])
        assert isinstance(outcomes[1], tuple)
