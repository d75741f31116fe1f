"""The planner on pretended GPUs: what a real one would refuse, and what graphs must not do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from acestep.engine.torch_models import place_planner
from acestep.planner.backends import matrices
from acestep.planner.backends.pt import TorchLanguageModel
from acestep.planner.backends.sampling import draw
from acestep.planner.language_model import Generation, TokenSampling
from acestep.planner.loading import load_language_model
from acestep.weights.offload import OffloadManager
from acestep.weights.safetensors import DeviceMover, LoadTarget
from tests.planner.backends.test_pt import codes, run, song
from tests.planner.toy import Toy, write_toy
from tests.pretended_gpu import CPU, Gpu, movable, pretended

FIRST, SECOND = torch.device("cuda:0"), torch.device("cuda:1")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    with pretended(monkeypatch) as gpu:
        yield gpu


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy(tmp_path_factory.mktemp("lm"), Toy(hidden=64, words=300, tied=False))


def asked(model: TorchLanguageModel) -> list[Generation]:
    """Each kind of sampling, in rows that are freed at different times."""
    return [
        song(model),
        song(model, 1, "x" * 40, count=20),
        replace(song(model, 2), null_prompt=None),
        replace(song(model, 3), sampling=TokenSampling(repetition_penalty=1.3, top_k=5)),
        replace(song(model, 4), sampling=TokenSampling(temperature=0)),
    ]


def texts(model: TorchLanguageModel) -> list[str | None]:
    return [output.text for output in run(model, *asked(model))]


def on_cpu(folder: Path, dtype: torch.dtype = torch.float32) -> TorchLanguageModel:
    return TorchLanguageModel(load_language_model(folder, LoadTarget(CPU, dtype)), 3, 512)


def resident(folder: Path, device: torch.device, dtype: torch.dtype = torch.float32) -> TorchLanguageModel:
    parts = load_language_model(folder, LoadTarget(CPU, dtype))
    tied = parts.head is parts.model.embed_tokens.weight
    parts.model.to(device)
    head = parts.model.embed_tokens.weight if tied else parts.head.to(device)
    return TorchLanguageModel(replace(parts, head=head), 3, 512)


def lodging(folder: Path, device: torch.device, offload_manager: OffloadManager) -> TorchLanguageModel:
    parts = load_language_model(folder, LoadTarget(CPU, torch.float32))
    tied = parts.head is parts.model.embed_tokens.weight
    movable(parts.model, device)
    head: Tensor = parts.model.embed_tokens.weight
    if not tied:
        linear = nn.Linear(1, 1, bias=False)
        linear.weight = nn.Parameter(parts.head, requires_grad=False)
        movable(linear, device)
        head = linear.weight
    return place_planner(TorchLanguageModel(replace(parts, head=head), 3, 512, device), offload_manager)


@pytest.mark.parametrize(("device", "dtype"), [(FIRST, torch.float32), (SECOND, torch.bfloat16)], ids=str)
def test_texts_are_those_of_the_cpu_on_any_gpu(
    folder: Path, device: torch.device, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matrices, "_ROWS_ARE_FASTER", ())  # a CPU's own way, with another rounding
    expected = texts(on_cpu(folder, dtype))
    with pretended(monkeypatch):
        assert texts(resident(folder, device, dtype)) == expected


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_graphs_are_recorded_again_after_weights_moved(
    tmp_path: Path, tied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_toy(tmp_path / "lm", Toy(hidden=64, words=300, tied=tied))
    captions = ("pop", "a catchy chorus with warm pads")
    reference = on_cpu(folder)
    expected = [run(reference, song(reference, caption=caption))[0].text for caption in captions]
    with pretended(monkeypatch):
        offload_manager = OffloadManager(DeviceMover(SECOND))
        model = lodging(folder, SECOND, offload_manager)
        other = offload_manager.group("offloaded", [movable(nn.Linear(2, 2), SECOND)])
        for caption, text in zip(captions, expected, strict=True):
            assert run(model, song(model, caption=caption))[0].text == text
            assert {weight.device for part in model.movable for weight in part.parameters()} == {SECOND}
            offload_manager.enter(other)
            assert {weight.device for part in model.movable for weight in part.parameters()} == {CPU}


def test_a_code_costs_two_waits(folder: Path, gpu: Gpu) -> None:
    """One for the tokens that go in, when the GPU is idle; one for those that come out."""
    model = resident(folder, FIRST)
    for seed in range(3):
        model.add(replace(song(model, seed), grammar=f"%llguidance {{}}\nstart: {codes(model, 60)}"))
        model.step()
    for _ in range(5):
        before = len(gpu.waits)
        model.step()
        assert [wait.line for wait in gpu.waits[before:]] == [
            "planner/backends/decoder.py:decode",
            "planner/backends/sampling.py:choose",
        ]


def test_no_masked_token_is_drawn_if_a_gpu_adds_in_blocks(gpu: Gpu) -> None:
    everything = TokenSampling(temperature=1.0, top_p=1.0, top_k=0)
    logits = torch.randn(400, generator=torch.Generator().manual_seed(1), dtype=torch.float32)
    barred = torch.arange(400) % 7 > 1
    logits = logits.masked_fill(barred, -torch.inf)
    on_gpu = logits.to(FIRST)[None]
    sums = on_gpu.softmax(-1).cumsum(-1).cpu()[0]
    assert (sums.diff()[barred[1:]] != 0).any()  # as announced
    chances = (sums / sums[-1]).clamp_max(1.0)
    drawn = [int(draw(on_gpu, everything, chance.view(1, 1).to(FIRST))) for chance in chances]
    assert not barred[drawn].any()
