from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from acestep.errors import PlannerError
from acestep.planner.backends.grammars import Grammars
from acestep.planner.backends.sequence import TextSequence, prompts_of
from acestep.planner.language_model import Generation, StepOutput, TokenSampling
from acestep.planner.loading import load_chat

Start = Callable[..., TextSequence]


def generation(grammar: str = "start: <[7]>{3}", max_tokens: int = 3) -> Generation:
    return Generation((1, 2, 3), grammar, TokenSampling(), 0, max_tokens, null_prompt=(4,))


@pytest.fixture
def start(toy: Path) -> Start:
    chat, vocabulary = load_chat(toy)
    grammars = Grammars(chat.tokenizer, vocabulary, size=448)

    def start(wanted: Generation) -> TextSequence:
        return TextSequence(9, wanted, grammars.read(wanted.grammar), torch.Generator("cpu"))

    return start


def detokenize(tokens: object) -> str:
    return f"text of {tokens}"


def test_a_text_ends_where_its_grammar_ends(start: Start) -> None:
    sequence = start(generation())
    sequence.seen = torch.zeros(448, dtype=torch.bool)
    assert [sequence.append(7, detokenize) for _ in range(3)] == [
        StepOutput(9, 1),
        StepOutput(9, 2),
        StepOutput(9, 3, text="text of [7, 7, 7]"),
    ]
    assert sequence.seen.nonzero().tolist() == [[7]]


def test_a_text_that_reaches_max_tokens_is_an_error(start: Start) -> None:
    sequence = start(generation(max_tokens=2))
    sequence.append(7, detokenize)
    assert sequence.append(7, detokenize) == StepOutput(9, 2, error="The text has not ended after 2 tokens")


def test_a_token_against_the_grammar_is_an_error_in_one_line(start: Start) -> None:
    output = start(generation()).append(8, detokenize)
    assert output.error is not None and "\n" not in output.error
    assert output.error.startswith("The grammar could not be followed: ")


def test_no_token_is_an_error(start: Start) -> None:
    assert start(generation()).append(None, detokenize).error == "The grammar allows no token here"


@pytest.mark.parametrize(("scale", "prompts"), [(2.5, [(1, 2, 3), (4,)]), (1.0, [(1, 2, 3)])])
def test_guidance_needs_a_second_prompt(scale: float, prompts: list[tuple[int, ...]]) -> None:
    sampling = TokenSampling(guidance_scale=scale)
    guided = Generation((1, 2, 3), "start: <[7]>", sampling, 0, 1, null_prompt=(4,))
    assert prompts_of(guided, 100, "toy") == prompts


def test_prompts_that_are_too_long_are_refused() -> None:
    assert prompts_of(generation(), 6, "toy")
    with pytest.raises(PlannerError, match=r"prompt of 3 tokens.*up to 3 exceed the 5 tokens that toy holds"):
        prompts_of(generation(), 5, "toy")
    with pytest.raises(PlannerError, match="A prompt is empty"):
        prompts_of(Generation((), "start: <[7]>", TokenSampling(), 0, 1), 100, "toy")
