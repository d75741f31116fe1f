"""Grammars see the same tokenizer whether llguidance reads it or is told its bytes."""

from pathlib import Path

import llguidance
import llguidance.hf
import pytest
from transformers import PreTrainedTokenizerFast

from acestep.planner.backends.vocabulary import grammar_tokenizer
from acestep.planner.loading import END_OF_TURN, load_tokenizer
from tests.planner.toy import Toy, write_toy

TEXT = "bpm: 120\ncaption: 明るい piano, ~é\n"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    folder: Path = write_toy(tmp_path_factory.mktemp("lm") / "toy", Toy(codes=40))
    return load_tokenizer(folder)[0]


def test_each_token_has_its_bytes(tokenizer: PreTrainedTokenizerFast) -> None:
    end = tokenizer.convert_tokens_to_ids(END_OF_TURN)
    ours = grammar_tokenizer(tokenizer, len(tokenizer) + 5, end)
    theirs = llguidance.hf.from_tokenizer(tokenizer, n_vocab=len(tokenizer) + 5, eos_token=end)
    assert ours.vocab_size == theirs.vocab_size
    assert ours.tokenize_str(TEXT) == theirs.tokenize_str(TEXT)
    for token in range(len(tokenizer)):
        assert ours.decode_bytes([token]) == theirs.decode_bytes([token]), token


@pytest.mark.parametrize(
    "grammar",
    [
        'start: "bpm: " /[0-9]{2,3}/ "\\n"',
        "start: <think> /[a-z明るい ]+/ </think>",
        "start: /(.|\\n){0,20}/ <|im_end|>",
    ],
)
def test_each_grammar_allows_the_same(tokenizer: PreTrainedTokenizerFast, grammar: str) -> None:
    end = tokenizer.convert_tokens_to_ids(END_OF_TURN)
    size = len(tokenizer) + 5  # heads are padded: what stands for no token is never allowed
    walks = [
        llguidance.LLMatcher(made, grammar, log_level=0)
        for made in (
            grammar_tokenizer(tokenizer, size, end),
            llguidance.hf.from_tokenizer(tokenizer, n_vocab=size, eos_token=end),
        )
    ]
    for _ in range(12):
        first, second = (walk.compute_bitmask() for walk in walks)
        assert first == second
        allowed = [n for n in range(size) if first[n // 8] >> n % 8 & 1]
        assert all(n < len(tokenizer) for n in allowed)
        if not allowed or walks[0].is_stopped():
            break
        for walk in walks:
            walk.consume_token(allowed[len(allowed) // 2])
