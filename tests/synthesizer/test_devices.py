"""Songs on a pretended GPU are the CPU's, and every tensor is on the device that a real GPU needs it on."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from acestep.catalog.adapters import AdapterFolder
from acestep.domain.song import AdapterUse, Tuning
from acestep.synthesizer.loading import SynthesizerModules
from acestep.synthesizer.lora import TransformerAdapters
from acestep.synthesizer.synthesizer import Synthesizer
from tests.adapter_folders import write_lora
from tests.pretended_gpu import Gpu, kernels_of_a_gpu, pretended
from tests.synthesizer import toy
from tests.synthesizer.test_tasks import GUIDED, PLAIN, every_task, noise, render

SECOND = torch.device("cuda:1")  # torch puts tensors on the first by default
HEADS = {0: (1,), 2: (0, 3)}
TUNED = replace(GUIDED.tuning, integrator="heun", smoothing=0.3)

Load = Callable[[], SynthesizerModules]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    written = toy.write_published(tmp_path_factory.mktemp("toy"))
    return lambda: written.load(torch.bfloat16)


@pytest.fixture(autouse=True)
def _kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels_of_a_gpu(monkeypatch)


@contextmanager
def on_gpu(modules: SynthesizerModules, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Synthesizer, Gpu]]:
    with pretended(monkeypatch) as gpu:
        encoder = modules.condition_encoder
        networks = (modules.transformer, encoder, modules.audio_tokenizer, modules.audio_token_detokenizer)
        for network in (*networks, modules.text_encoder):
            network.to(SECOND)
        moved = replace(modules, silence_latent=encoder.silence_latent)
        yield Synthesizer(moved, toy.FRAME_RATE, HEADS), gpu


@pytest.mark.parametrize(
    "sampling",
    [
        replace(GUIDED, cover_strength=0.5, injection=0.5),
        replace(GUIDED, tuning=Tuning(guidance="adg"), infer_method="sde"),
        replace(GUIDED, tuning=TUNED, cfg_interval=(0.2, 0.8)),
    ],
    ids=["apg", "adg, sde", "heun"],
)
def test_a_batch_of_every_task_is_the_cpus(load, sampling, monkeypatch):
    plans, sources = every_task(sampling)
    expected = render(Synthesizer(load(), toy.FRAME_RATE), plans, sources)
    with on_gpu(load(), monkeypatch) as (synthesizer, gpu):
        latents = render(synthesizer, plans, sources)
        assert latents.device == SECOND
        assert torch.equal(latents.cpu(), expected)
    assert gpu.unfused == []


def test_songs_that_start_at_their_sources_are_the_cpus(load, monkeypatch):
    sampling = replace(GUIDED, noise_strength=0.4)
    plans, sources = [toy.song(task_type="cover", sampling=sampling)], every_task(sampling)[1][2:3]
    expected = render(Synthesizer(load(), toy.FRAME_RATE), plans, sources)
    with on_gpu(load(), monkeypatch) as (synthesizer, _):
        assert torch.equal(render(synthesizer, plans, sources).cpu(), expected)


def test_a_step_waits_once_and_codes_do_together(load, monkeypatch):
    with on_gpu(load(), monkeypatch) as (synthesizer, gpu):
        waits = []
        plan = toy.song(sampling=replace(GUIDED, tuning=Tuning(guidance="adg")))
        synthesizer.render([plan], lambda *_: waits.append(len(gpu.waits)), lambda: False)
        assert np.diff(waits).tolist() == [1] * (PLAIN.steps - 1)
        before = len(gpu.waits)
        codes = synthesizer.tokenize(noise(1, 48).to(SECOND))
        assert len(codes) == 12
        assert [wait.what for wait in gpu.waits[before + 1 :]] == ["cuda to cpu"]


def test_lyric_attention_is_the_cpus(load, monkeypatch):
    plan = toy.song(lyrics="[Verse]\nla la la")
    latents = noise(3)[None]
    expected = Synthesizer(load(), toy.FRAME_RATE, HEADS).attend_lyrics(plan, latents)
    with on_gpu(load(), monkeypatch) as (synthesizer, _):
        found = synthesizer.attend_lyrics(plan, latents.to(SECOND))
    np.testing.assert_array_equal(found.weights, expected.weights)
    np.testing.assert_array_equal(found.logits, expected.logits)


@pytest.mark.parametrize("use_dora", [False, True], ids=["lora", "dora"])
def test_an_adapter_acts_as_on_the_cpu(load, use_dora, tmp_path: Path, monkeypatch):
    modules = load()
    write_lora(tmp_path / "pop", modules.transformer, use_dora=use_dora, target_modules="all-linear")
    adapters = TransformerAdapters("toy", modules.transformer, AdapterFolder(tmp_path))
    adapters.apply([AdapterUse("pop", 1.0)])
    plans, sources = every_task(PLAIN)
    expected = render(Synthesizer(modules, toy.FRAME_RATE), plans[:1], sources[:1])
    with on_gpu(modules, monkeypatch) as (synthesizer, _):
        assert torch.equal(render(synthesizer, plans[:1], sources[:1]).cpu(), expected)
        adapters.apply([])
        assert not torch.equal(render(synthesizer, plans[:1], sources[:1]).cpu(), expected)
