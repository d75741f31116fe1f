import itertools
import random

import pytest
from transformers import PreTrainedTokenizerFast

from acestep.codec.sine_bank import SineBankConfig
from acestep.synthesizer.conditioning import caption_prompt
from tests.nano.test_dataset import click_track
from training.nano.clock import Clock
from training.nano.dataset import plans
from training.nano.model import CONFIG, train_tokenizer
from training.nano.train import LESSONS, Feed


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    texts = itertools.islice(plans([click_track()], random.Random(0)), 100)
    return train_tokenizer(caption_prompt(plan) for _, plan in texts)


def test_lessons_fill_the_time_with_crops_that_the_model_can_take() -> None:
    assert sum(lesson.share for lesson in LESSONS) == pytest.approx(1.0)
    for lesson in LESSONS:
        assert sum(share for _, _, share in lesson.crops) == pytest.approx(1.0)
        for frames, _, _ in lesson.crops:
            assert frames % CONFIG["patch_size"] == 0
            assert frames % CONFIG["pool_window_size"] == 0


def test_a_batch_is_of_one_length_and_tells_which_songs_come_from_codes(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    feed = Feed([click_track()], tokenizer, SineBankConfig(), random.Random(3))
    batch = feed.batch(((100, 40, 1.0),))
    assert batch.latents.shape == (40, 100, 101)
    assert batch.ids.shape[0] == batch.mask.shape[0] == 40
    assert batch.lyric_ids.shape[0] == 1
    cover = tokenizer("Generate audio semantic")["input_ids"]
    from_codes = [" ".join(map(str, cover)) in " ".join(map(str, row)) for row in batch.ids.tolist()]
    assert batch.hinted.tolist() == from_codes
    assert 0 < sum(from_codes) < 40


def test_a_clock_counts_steps_until_the_time_is_up() -> None:
    seconds = iter([0.0, 0.0, 1.0, 2.0, 2.5])
    assert list(Clock(2 / 60, now=lambda: next(seconds)).steps("test")) == [(0, 0.0), (1, 0.5), (2, 1.0)]
