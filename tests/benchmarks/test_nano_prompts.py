from __future__ import annotations

from collections import Counter

import pytest

from acestep.domain.song import TIME_SIGNATURES
from benchmarks.nano_prompts import Prompt, build, load, piece
from training.nano.music.instruments import INSTRUMENTS
from training.nano.music.piece import DRUMS
from training.nano.words.claims import is_true, read


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    return load()


def test_what_is_committed_is_what_is_built(prompts: list[Prompt]) -> None:
    assert prompts == build()


def test_half_are_japanese_in_every_kind(prompts: list[Prompt]) -> None:
    assert len(prompts) == 120
    kinds = Counter((prompt.language, prompt.solo is not None, prompt.drums) for prompt in prompts)
    assert sum(count for (language, _, _), count in kinds.items() if language == "ja") == 60
    assert kinds["ja", False, True] == kinds["en", False, True] == 20
    assert kinds["ja", False, False] == kinds["en", False, False] == 20
    for prompt in prompts:
        assert prompt.prompt.isascii() == (prompt.language == "en")


def test_every_instrument_is_asked_for_alone(prompts: list[Prompt]) -> None:
    assert {prompt.solo for prompt in prompts} == {*INSTRUMENTS, DRUMS, None}


def test_all_that_is_asked_for_is_true_of_the_piece_behind(prompts: list[Prompt]) -> None:
    for prompt in prompts:
        facts = piece(prompt).facts
        assert (facts.bpm, facts.key_scale, facts.seconds) == (prompt.bpm, prompt.key_scale, prompt.seconds)
        assert facts.time_signature == prompt.time_signature in TIME_SIGNATURES
        assert facts.solo == prompt.solo
        assert facts.has_drums == prompt.drums
        assert set(prompt.instruments) <= set(facts.instruments)
        assert all(is_true(claim, facts) for claim in read(prompt.prompt).claims)


def test_bands_say_whether_there_are_drums(prompts: list[Prompt]) -> None:
    for prompt in prompts:
        said = {claim.polarity for claim in read(prompt.prompt).claims if claim.value == DRUMS}
        if prompt.solo is None:
            assert said == {"is" if prompt.drums else "not"}
            assert prompt.instruments
