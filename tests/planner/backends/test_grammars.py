"""The tokens that a grammar allows, and the rows of the head for them."""

from __future__ import annotations

from pathlib import Path

import llguidance
import llguidance.hf
import pytest
from transformers import PreTrainedTokenizerFast

from acestep.errors import PlannerError
from acestep.networks.qwen3 import load_tokenizer
from acestep.planner.backends.grammars import Allowed, Constraint, Grammars, grammar_tokenizer
from acestep.planner.loading import END_OF_TURN, load_chat
from tests.planner.toy import Toy, write_toy

SIZE = 432


@pytest.fixture(scope="module")
def codes(toy: Path) -> range:
    vocabulary = load_chat(toy)[1]
    return range(vocabulary.first_code_id, vocabulary.first_code_id + vocabulary.code_count)


@pytest.fixture(scope="module")
def grammars(toy: Path) -> Grammars:
    chat, vocabulary = load_chat(toy)
    return Grammars(chat.tokenizer, vocabulary, SIZE)


def start(grammars: Grammars, rule: str) -> tuple[Constraint, Allowed]:
    constraint = grammars.read(f"%llguidance {{}}\nstart: {rule}")
    (allowed,) = grammars.allowed([constraint])
    assert allowed is not None
    return constraint, allowed


def test_one_allowed_token_is_forced(grammars: Grammars, toy: Path) -> None:
    constraint, allowed = start(grammars, '<think> "a"')
    think = load_chat(toy)[0].tokenizer.token_to_id("<think>")
    assert think is not None
    assert allowed.forced == think
    constraint.consume(think)
    assert not constraint.ended


def test_codes_are_a_slice_of_the_head(grammars: Grammars, codes: range) -> None:
    _, allowed = start(grammars, f"<[{codes[0]}-{codes[-1]}]>")
    assert (allowed.rows, allowed.barred, allowed.forced) == (slice(codes.start, codes.stop), None, None)
    assert allowed.token(3) == codes[3]


def test_some_codes_mask_the_others(grammars: Grammars, codes: range) -> None:
    _, allowed = start(grammars, f"<[{codes[2]}-{codes[5]}]>")
    assert allowed.barred is not None
    assert [allowed.token(index) for index in range(len(codes)) if not allowed.barred[index]] == list(
        codes[2:6]
    )


def test_codes_and_another_token_are_single_rows(grammars: Grammars, codes: range) -> None:
    _, allowed = start(grammars, f"<[{codes[0]}-{codes[3]}]> | <|im_end|>")
    assert not isinstance(allowed.rows, slice)
    assert sorted(allowed.rows.tolist()) == [codes[0] - 3, *codes[:4]]


def test_free_text_does_not_allow_special_tokens(grammars: Grammars, codes: range) -> None:
    _, allowed = start(grammars, r"/(.|\n){5}/")
    assert not isinstance(allowed.rows, slice)
    assert len(allowed.rows) > 200
    assert max(allowed.rows) < codes[0] - 5  # <|endoftext|> is the first of five before the codes


def test_many_allowed_tokens_take_the_whole_head(grammars: Grammars, monkeypatch: pytest.MonkeyPatch) -> None:
    _, few = start(grammars, r"/.{5}/")
    monkeypatch.setattr("acestep.planner.backends.grammars._MAX_GATHERED", 10)
    _, many = start(grammars, r"/.{5}/")
    assert isinstance(many.rows, slice) and many.barred is not None and not isinstance(few.rows, slice)
    assert [index for index in range(SIZE) if not many.barred[index]] == few.rows.tolist()


def test_a_bad_grammar_is_quoted(grammars: Grammars) -> None:
    with pytest.raises(PlannerError, match="start: <nothing>"):
        grammars.read("%llguidance {}\nstart: <nothing>")


TEXT = "bpm: 120\ncaption: 明るい piano, ~é\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy(tmp_path_factory.mktemp("lm") / "toy", Toy(codes=40))


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(folder)


def test_each_token_has_its_bytes(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    end = tokenizer.convert_tokens_to_ids(END_OF_TURN)
    ours = grammar_tokenizer(load_tokenizer(folder), len(tokenizer) + 5, end)
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
def test_each_grammar_allows_the_same(folder: Path, tokenizer: PreTrainedTokenizerFast, grammar: str) -> None:
    end = tokenizer.convert_tokens_to_ids(END_OF_TURN)
    size = len(tokenizer) + 5  # heads are padded: what stands for no token is never allowed
    walks = [
        llguidance.LLMatcher(made, grammar, log_level=0)
        for made in (
            grammar_tokenizer(load_tokenizer(folder), size, end),
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
