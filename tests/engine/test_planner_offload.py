"""An offloaded planner generates the same texts, and is on the device only meanwhile."""

import asyncio
import gc
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from acestep.catalog.checkpoints import Checkpoint, read_json
from acestep.engine.torch_models import LoadContext, load_model, load_planner, place_model, place_planner
from acestep.engine.torch_renderer import TorchRenderer
from acestep.errors import JobCancelledError, PlannerError
from acestep.memory.number_formats import NumberFormats
from acestep.memory.plan import Abilities, Device, MemoryPlan, Sizes, Wishes
from acestep.memory.search import options
from acestep.memory.sizes import QwenSize
from acestep.planner.backends.decoder import Decoder
from acestep.planner.backends.pt import TorchLanguageModel, load_torch_language_model
from acestep.planner.loop import GenerationLoop
from acestep.settings.types import Quantization
from acestep.weights.offload import OffloadManager
from acestep.weights.safetensors import LoadTarget, TensorIndex
from acestep.weights.shared_modules import SharedModules
from tests.engine.fakes import until
from tests.engine.test_model_offload import CPU, Counting, load, networks, promised, renderer, sizes_of, songs
from tests.engine.test_torch_models import EXPECTED, write_checkpoint, write_oobleck
from tests.planner.backends.test_pt import run, song
from tests.planner.toy import Toy, write_toy
from tests.synthesizer import toy


@dataclass
class Shared:
    """A pretended device that a planner and a model use in turn."""

    mover: Counting
    offload_manager: OffloadManager
    planner: TorchLanguageModel
    model: TorchRenderer


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return write_checkpoint(tmp_path_factory.mktemp("toy"), write_oobleck)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy(tmp_path_factory.mktemp("lm"), Toy(hidden=64, words=300))


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy(tmp_path_factory.mktemp("lm"), Toy(hidden=64, words=300, tied=False))


@pytest.fixture
def plan(checkpoint: Checkpoint, folder: Path) -> MemoryPlan:
    return plans(sizes(checkpoint, folder))[0]


@pytest.fixture
def shared(
    checkpoint: Checkpoint, folder: Path, plan: MemoryPlan, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Shared]:
    mover = Counting()
    count_caches(mover, monkeypatch)
    yield entry(checkpoint, folder, plan, mover)


def sizes(checkpoint: Checkpoint, folder: Path) -> Sizes:
    lm = QwenSize.of("lm", read_json(folder / "config.json"))
    return replace(sizes_of(checkpoint), planners=(lm,))


def plans(sizes: Sizes) -> list[MemoryPlan]:
    """An offloaded planner beside resident models, offloaded ones, or both."""
    wishes = [
        Wishes(offload=offload, offload_dit=offload_dit, offload_planner=True, planner=True)
        for offload, offload_dit in ((True, True), (False, False), (True, False))
    ]
    device = Device(NumberFormats("float32"), cache_block=32)
    return [options(sizes, wish, device, Abilities(offload=True, offload_planner=True))[0] for wish in wishes]


def count_caches(mover: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    allocate = Decoder.allocate

    def counted(decoder: Decoder) -> None:
        allocate(decoder)
        mover.now += decoder._cache.nbytes
        mover.most = max(mover.most, mover.now)
        weakref.finalize(decoder._cache.untyped_storage(), mover._gone, decoder._cache.nbytes)

    monkeypatch.setattr(Decoder, "allocate", counted)


def entry(checkpoint: Checkpoint, folder: Path, plan: MemoryPlan, mover: Counting) -> Shared:
    offload_manager = OffloadManager(mover)
    modules, codec = load(checkpoint)
    model = renderer(place_model(modules, codec, plan, CPU, offload_manager), codec)
    lm = load_torch_language_model(
        folder, LoadTarget(CPU, torch.float32, plan.quantization), plan.sequences, plan.length, CPU
    )
    return Shared(mover, offload_manager, place_planner(lm, offload_manager), model)


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_a_quantized_planner_is_offloaded(
    checkpoint: Checkpoint, folder: Path, kind: Quantization, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device(NumberFormats("float32"), cache_block=32, quantization=kind)
    wishes = Wishes(offload_planner=True, planner=True)
    plan = options(sizes(checkpoint, folder), wishes, device, Abilities(offload_planner=True))[0]
    stays = load_torch_language_model(
        folder, LoadTarget(CPU, torch.float32, kind), sequences=plan.sequences, length=plan.length
    )
    expected = [run(stays, song(stays, seed))[0].text for seed in range(2)]
    mover = Counting()
    count_caches(mover, monkeypatch)
    goes = entry(checkpoint, folder, plan, mover).planner
    assert mover.now == 0
    assert [run(goes, song(goes, seed))[0].text for seed in range(2)] == expected
    (part,) = (part for part in plan.parts if part.name == "planner")
    assert mover.most == pytest.approx(part.size, rel=0.05)


@pytest.mark.parametrize(("toy", "number"), [("folder", 0), ("untied", 1), ("folder", 2)])
def test_texts_and_songs_are_the_same_and_memory_is_as_planned(
    checkpoint: Checkpoint,
    toy: str,
    number: int,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = request.getfixturevalue(toy)
    plain = load_torch_language_model(folder, LoadTarget(CPU, torch.float32))
    texts = [run(plain, song(plain, seed))[0].text for seed in range(2)]
    expected = songs(renderer(*load(checkpoint)))
    plan, mover = plans(sizes(checkpoint, folder))[number], Counting()
    count_caches(mover, monkeypatch)
    there = entry(checkpoint, folder, plan, mover)
    assert mover.now == 0
    for _ in range(2):
        found = run(there.planner, *(song(plain, seed) for seed in range(2)))
        assert [each.text for each in found] == texts
        planner = mover.now
        for one, same in zip(expected, songs(there.model), strict=True):
            np.testing.assert_array_equal(one, same)
        assert mover.now < planner / 2, "weights and cache of the planner are offloaded"
    stays = sum(
        weight.nbytes
        for name, network in networks(there.model).items()
        if plan.placement(name) == "resident"
        for weight in network.parameters()
    )
    assert stays + mover.most == pytest.approx(promised(plan, sizes(checkpoint, folder)), rel=0.05)


def test_a_planner_is_offloaded_while_songs_are_made(shared: Shared, checkpoint: Checkpoint) -> None:
    planner, model = shared.planner, shared.model
    alone = [run(planner, song(planner, seed, count=30))[0].text for seed in range(6)]
    expected = songs(model)
    most = shared.mover.most
    loop = GenerationLoop(planner)

    async def both() -> tuple[list[str], list[list[np.ndarray]]]:
        texts = asyncio.gather(
            *(loop.generate(song(planner, seed, count=30), _ignore, _wanted) for seed in range(6))
        )
        rendered = await asyncio.gather(*(asyncio.to_thread(songs, model) for _ in range(1)))
        return await texts, rendered

    for _ in range(3):
        texts, (rendered,) = asyncio.run(both())
        assert texts == alone
        for one, same in zip(expected, rendered, strict=True):
            np.testing.assert_array_equal(one, same)
    loop.close()
    assert shared.mover.most == most, "they were never on the device together"


def test_a_text_that_waits_for_the_device_can_be_cancelled(shared: Shared) -> None:
    loop = GenerationLoop(shared.planner)
    unwanted = threading.Event()

    async def cancelled() -> None:
        writing = loop.generate(song(shared.planner), _ignore, unwanted.is_set)
        task = asyncio.create_task(writing)
        await until(lambda: rendering.is_awaited)
        unwanted.set()
        with pytest.raises(JobCancelledError):
            await task

    rendering = shared.offload_manager.request()
    asyncio.run(cancelled())
    rendering.release()
    text = asyncio.run(loop.generate(song(shared.planner), _ignore, _wanted))
    assert text == run(shared.planner, song(shared.planner))[0].text
    loop.close()


def test_a_loop_ends_while_it_waits_for_the_device(shared: Shared) -> None:
    loop = GenerationLoop(shared.planner)

    async def closed() -> None:
        task = asyncio.create_task(loop.generate(song(shared.planner), _ignore, _wanted))
        await until(lambda: rendering.is_awaited)
        await asyncio.to_thread(loop.close)
        with pytest.raises(PlannerError):
            await task

    rendering = shared.offload_manager.request()
    asyncio.run(closed())
    rendering.release()
    assert len(songs(shared.model)) == 3, "the device is free"


def test_a_song_that_waits_for_the_device_can_be_cancelled(shared: Shared) -> None:
    task = shared.planner.add(song(shared.planner, count=60))
    shared.planner.step()
    with pytest.raises(JobCancelledError):
        shared.model.render([toy.song()], lambda *_: None, lambda: True)
    shared.planner.abort(task)
    assert len(songs(shared.model)) == 3


def test_a_stream_of_texts_lets_songs_through(shared: Shared) -> None:
    """While a song waits, no more texts begin than run at once."""
    planner, slots = shared.planner, shared.planner._max_sequences
    tasks = [planner.add(song(planner, seed)) for seed in range(3 * slots)]
    planner.step()
    waiting = shared.offload_manager.request()
    ended = 0
    while not waiting.wait(0):
        ended += sum(output.ended for output in planner.step())
    assert ended == slots
    assert planner.step() == [], "the other texts wait"
    waiting.release()
    while outputs := planner.step():
        ended += sum(output.ended for output in outputs)
    assert ended == len(tasks)


def test_a_planner_without_room_leaves_nothing_on_the_device(
    shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run(shared.planner, song(shared.planner))[0].text
    songs(shared.model)
    with monkeypatch.context() as patched:
        patched.setattr(Decoder, "allocate", _no_room)
        task = shared.planner.add(song(shared.planner))
        with pytest.raises(MemoryError):
            shared.planner.step()
        assert shared.mover.now == 0
        shared.planner.abort(task)
    assert run(shared.planner, song(shared.planner))[0].text == expected


def test_a_deleted_planner_frees_its_weights(shared: Shared) -> None:
    run(shared.planner, song(shared.planner))
    assert shared.mover.now > 0
    del shared.planner
    gc.collect()
    assert shared.mover.now == 0


def test_loading_reports_every_tensor(checkpoint: Checkpoint, folder: Path) -> None:
    signs: list[int] = []
    load_model(checkpoint, "cpu", EXPECTED, LoadContext(beat=lambda: signs.append(1)))
    parts = checkpoint.dit, checkpoint.text_encoder
    assert len(signs) > sum(len(TensorIndex.of(part).files) for part in parts)
    signs.clear()
    load_planner(folder, "cpu", "pt", LoadContext(beat=lambda: signs.append(1)))
    assert len(signs) == len(TensorIndex.of(folder).files)


def test_loading_follows_the_plan(checkpoint: Checkpoint, folder: Path, plan: MemoryPlan) -> None:
    parts = SharedModules()
    model = load_model(checkpoint, "cpu", EXPECTED, LoadContext(shared=parts, plan=plan))
    moving = load_planner(folder, "cpu", "pt", LoadContext(shared=parts, plan=plan)).model
    plain = load_planner(folder, "cpu", "pt").model
    assert run(moving, song(moving)) == run(plain, song(plain))
    assert isinstance(moving, TorchLanguageModel)
    assert moving._decoder._cache.numel() > 0
    songs(model.renderer)
    assert moving._decoder._cache.numel() == 0


def _no_room(_: Decoder) -> None:
    raise MemoryError


def _ignore(_: int) -> None:
    pass


def _wanted() -> bool:
    return False
