import random
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from acestep.catalog import checkpoints
from acestep.codec.tone_noise import ToneNoiseCodec
from acestep.domain.models import ModelInfo
from acestep.engine.torch_models import load_model
from acestep.synthesizer.conditioning import caption_prompt
from tests.nano.learning.test_examples import CHANNELS, band
from tests.nano.test_model import plan
from training.nano.learning.denoiser import Batch, Denoiser, collate
from training.nano.learning.examples import LONGEST, SHARES, Shelf, scale_of
from training.nano.learning.lessons import School, make_codes, make_music, quicken, read
from training.nano.learning.network import DISTILLED, ticking_silence, train_tokenizer, write_folder

OWN = band()
SCALE = scale_of([OWN.own])
SHELF = Shelf([OWN], SCALE)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(caption_prompt(SHELF.example(250, random.Random(n)).plan) for n in range(60))


@pytest.fixture(scope="module")
def model() -> Denoiser:
    torch.manual_seed(0)
    return Denoiser(SCALE)


def batch(model: Denoiser, tokenizer: PreTrainedTokenizerFast, *tasks: str) -> Batch:
    examples = [SHELF.example(50, random.Random(n), task) for n, task in enumerate(tasks)]
    return collate(examples, tokenizer, model.silence)


def test_the_silence_has_clocks_that_are_not_heard() -> None:
    silence = ticking_silence(SCALE)
    assert silence.shape == (1, round(25 * LONGEST), CHANNELS)
    assert ToneNoiseCodec(SCALE).decode(silence[:, :250]).abs().max() < 1e-5  # -100 dBFS
    places = silence[0, ::25, 100:116]  # of the slow clocks, once a second
    distances = torch.cdist(places, places) + 10 * torch.eye(len(places))
    assert distances.min() > 0.5  # no second is like another


def test_every_task_is_learned_from_one_batch(model: Denoiser, tokenizer: PreTrainedTokenizerFast) -> None:
    loss = model.loss(batch(model, tokenizer, *SHARES), 0.4, torch.Generator().manual_seed(0))
    loss.backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(loss)
    untouched = {name for name, weight in model.named_parameters() if weight.grad is None}
    model.zero_grad()
    # The audio tokenizer has learned before; the jump of mean flow and two tokens are not used.
    assert all(
        name.startswith(("networks.tokenizer", "networks.detokenizer"))
        or "special_token" in name
        or "time_embed_r" in name
        for name in untouched
    )


def test_only_songs_with_a_reference_hear_it(model: Denoiser, tokenizer: PreTrainedTokenizerFast) -> None:
    songs = batch(model, tokenizer, "reference", "text2music")
    assert songs.referring == (0,)
    with torch.no_grad():
        states, seen = model.condition(songs, model.read(songs))
    timbre = states.shape[1] - songs.ids.shape[1] - 1
    assert seen[:, : timbre + 1].all()
    assert not torch.allclose(states[0, timbre], states[1, timbre])
    assert torch.equal(states[0, :timbre], states[1, :timbre])


def test_a_repaint_does_not_see_what_it_replaces(model: Denoiser, tokenizer: PreTrainedTokenizerFast) -> None:
    song = batch(model, tokenizer, "repaint")
    written = song.masks[0] == 1
    start = int(song.start[0])
    assert torch.equal(song.sources[0, written], model.silence[0, start : start + 50][written])
    assert torch.equal(song.sources[0, ~written], song.targets[0, ~written])


def test_every_lesson_leaves_a_state_to_go_on_from(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    school = School(Denoiser(SCALE), SHELF, tokenizer, tmp_path)
    average, teacher = Denoiser(SCALE), Denoiser(SCALE)
    moment = 1e-6 / 60  # one step
    read(school, moment)
    make_codes(school, moment)
    make_music(school, average, moment)
    quicken(school, teacher, average, moment)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "codes.pt",
        "learning.pt",
        "reading.pt",
        "turbo.pt",
    ]


def test_what_is_written_loads_strictly_and_renders(
    model: Denoiser, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    folder = tmp_path / "toy-nano"
    write_folder(folder, dict(model.named_children()), tokenizer, SCALE, DISTILLED)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert size < 24.5e6  # with the planner's 5.5 MB under 30
    checkpoint = checkpoints.require(str(folder), tmp_path)
    info = ModelInfo(checkpoint.name, checkpoint.is_turbo, 1, 1.0, 1.0, 50)
    loaded = load_model(checkpoint, "cpu", info)
    assert (loaded.info.steps, loaded.info.guidance_scale) == (8, 1.0)
    (rendering,) = loaded.renderer.render([plan()], lambda done, steps: None, lambda: False)
    clip = loaded.renderer.decode(rendering, 10.0, lambda fraction: None)
    assert clip.samples.shape == (2, 480_000)
