import itertools
import random
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from acestep.catalog import checkpoints
from acestep.codec.sine_bank import SineBankCodec, SineBankConfig
from acestep.domain.models import ModelInfo
from acestep.domain.song import INSTRUMENTAL, TEXT2MUSIC_INSTRUCTION, Sampling, SongPlan
from acestep.engine.torch_models import load_model
from acestep.networks.transformer import Condition
from acestep.synthesizer.conditioning import caption_prompt, lyric_prompt
from tests.nano.test_dataset import click_track
from training.nano.clock import Clock
from training.nano.codes import teach_codes
from training.nano.composer import MAX_BPM, MIN_BPM, compose
from training.nano.dataset import plans
from training.nano.denoiser import Batch, Denoiser
from training.nano.model import CLOCKS, ticking_silence, train_tokenizer, write_folder
from training.nano.reading import Reader, teach_reading


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    texts = itertools.islice(plans([click_track()], random.Random(0)), 300)
    return train_tokenizer(caption_prompt(plan) for _, plan in texts)


@pytest.fixture(scope="module")
def model() -> Denoiser:
    torch.manual_seed(0)
    return Denoiser(SineBankConfig())


def plan(caption: str = "upbeat piano pop") -> SongPlan:
    return SongPlan(
        caption=caption,
        lyrics=INSTRUMENTAL,
        language="en",
        duration=10.0,
        seed=3,
        instruction=TEXT2MUSIC_INSTRUCTION,
        sampling=Sampling(steps=2, guidance_scale=3.0, shift=1.0),
    )


def steps(count: int) -> Clock:
    """A clock that is over after so many steps."""
    seconds = itertools.count()
    return Clock((count - 1) / 60, now=lambda: float(next(seconds)))


def batch(tokenizer: PreTrainedTokenizerFast, *songs: SongPlan, hinted: bool = False) -> Batch:
    tokens = tokenizer([caption_prompt(song) for song in songs], padding=True, return_tensors="pt")
    lyric = tokenizer([lyric_prompt(songs[0])], return_tensors="pt")
    latents = torch.randn(len(songs), 50, 101, generator=torch.Generator().manual_seed(0))
    from_codes = torch.full((len(songs),), hinted)
    pieces = tuple(compose(number, 10.0) for number in range(len(songs)))
    return Batch(
        tokens["input_ids"], tokens["attention_mask"], lyric["input_ids"], latents, from_codes, pieces
    )


def test_digits_are_tokens_of_their_own(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.tokenize("117")[-3:] == ["1", "1", "7"]
    assert tokenizer.decode(tokenizer("明るい piano, 120 bpm")["input_ids"]) == "明るい piano, 120 bpm"


@torch.no_grad()
def test_training_and_serving_compute_the_same_velocity(
    model: Denoiser, tokenizer: PreTrainedTokenizerFast
) -> None:
    songs = batch(tokenizer, plan(), plan("slow, sad and very long indeed, with strings"))
    text = model.text_encoder(songs.ids, songs.mask).last_hidden_state
    states, mask = model.condition(songs, text)
    context = torch.cat([model.silence[:, :50].expand(2, -1, -1), torch.ones(2, 50, 101)], dim=-1)
    x = songs.latents
    trained = model.velocity(x, torch.full((2,), 0.7), context, states, mask)
    serving = model.transformer
    served = serving.velocity(x, 0.7, serving.cache(Condition(states, mask, context)))
    assert torch.allclose(trained, served, atol=1e-4)


def test_the_loss_is_that_of_knowing_nothing_and_has_a_gradient_everywhere(
    model: Denoiser, tokenizer: PreTrainedTokenizerFast
) -> None:
    loss = model.loss(batch(tokenizer, *[plan()] * 8), 0.4, torch.Generator().manual_seed(2))
    assert 1.0 < loss.item() < 5.0
    loss.backward()  # type: ignore[no-untyped-call]
    untouched = {name for name, weight in model.named_parameters() if weight.grad is None}
    assert {name.split(".")[1] for name in untouched} <= {"tokenizer", "detokenizer", "encoder"}
    assert "networks.decoder.proj_in.1.weight" not in untouched
    model.zero_grad()


def test_reading_is_learned(tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(0)
    model = Denoiser(SineBankConfig())
    encoder = model.text_encoder
    before = [weight.clone() for weight in encoder.parameters()]
    teach_reading(Reader(encoder, tokenizer, model.facts), [click_track()], steps(3))
    assert any(not torch.equal(old, new) for old, new in zip(before, encoder.parameters(), strict=True))


def test_the_silence_of_nano_ticks_and_is_silent() -> None:
    codec = SineBankCodec(SineBankConfig())
    silence = ticking_silence(codec).bfloat16().float()
    assert silence.shape == (1, 1500, 101)
    assert codec.decode(silence).abs().max() < 1e-5  # -100 dBFS: what bfloat16 rounds up
    # A minute of silence can be followed by the same minute: every clock has come round.
    clocks = silence[0, :, : 2 * len(CLOCKS)]
    spectrum = torch.fft.rfft(clocks - clocks.mean(dim=0), dim=0).abs()
    assert spectrum.argmax(dim=0).tolist() == [bpm for bpm in CLOCKS for _ in range(2)]
    assert (CLOCKS[0], CLOCKS[-1]) == (MIN_BPM, MAX_BPM)


def test_codes_are_learned_and_then_only_they_decide_the_hints() -> None:
    torch.manual_seed(0)
    model = Denoiser(SineBankConfig())
    loud, soft = torch.full((1, 50, 101), 1.5), torch.full((1, 50, 101), -1.5)
    both = torch.cat([loud, soft])
    teach_codes(model, lambda: both, steps(40))
    hints = model.hints(both)
    assert (hints - both).abs().mean() < 0.75  # knowing nothing leaves 1.5
    quantized, indices = model.audio_tokenizer(both)
    assert indices.shape == (2, 10)
    assert quantized.shape == (2, 10, 192)


def test_a_song_from_codes_sees_its_hints(model: Denoiser, tokenizer: PreTrainedTokenizerFast) -> None:
    songs = [plan(), plan()]
    with torch.no_grad():
        silent, hinted = (
            model.loss(batch(tokenizer, *songs, hinted=hinted), 0.4, torch.Generator().manual_seed(2)).item()
            for hinted in (False, True)
        )
    assert silent != hinted


def test_what_is_written_loads_strictly_and_renders(
    model: Denoiser, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    folder = tmp_path / "toy-nano"
    write_folder(folder, dict(model.named_children()), tokenizer, SineBankConfig())
    checkpoint = checkpoints.require(str(folder), tmp_path)
    assert "bundled nano model" in checkpoint.notice
    info = ModelInfo(checkpoint.name, checkpoint.is_turbo, 1, 1.0, 1.0, 50)
    loaded = load_model(checkpoint, "cpu", info)
    assert (loaded.info.steps, loaded.info.state) == (16, "ready")
    (rendering,) = loaded.renderer.render([plan()], lambda done, steps: None, lambda: False)
    clip = loaded.renderer.decode(rendering, 10.0, lambda fraction: None)
    assert clip.samples.shape == (2, 480_000)
