"""Many texts at once, each as if alone: on PyTorch, and on vLLM if it is installed."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import llguidance.hf
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from acestep.errors import PlannerError
from acestep.planner.backends.decoder import Decoder
from acestep.planner.language_model import Generation, LanguageModel, Message, StepOutput, TokenSampling
from acestep.planner.loading import END_OF_TURN, load_chat
from tests.planner.loaders import Load, load_in_bfloat16, load_on_torch

SYSTEM = Message("system", "# Instruction\nGenerate audio semantic tokens:\n\n")


@pytest.fixture(scope="module")
def model(toy: Path, load: Load) -> LanguageModel:
    return load(toy)


def codes(model: LanguageModel, count: int) -> str:
    first = model.vocabulary.first_code_id
    return f"code{{{count}}} <|im_end|>\ncode: <[{first}-{first + model.vocabulary.code_count - 1}]>"


def song(model: LanguageModel, seed: int = 0, caption: str = "pop", count: int = 12) -> Generation:
    """Free text, then codes, with guidance."""
    return Generation(
        prompt=model.render([SYSTEM, Message("user", f"# Caption\n{caption}\n\n# Lyric\nla la\n")]),
        null_prompt=model.render([SYSTEM, Message("user", "# Lyric\nla la\n")]),
        grammar='%llguidance {}\nstart: <think> "caption: " /[a-z ]{4,30}/ </think> ' + codes(model, count),
        sampling=TokenSampling(),
        seed=seed,
        max_tokens=80,
    )


def run(model: LanguageModel, *generations: Generation) -> list[StepOutput]:
    """The last output of each, in their order."""
    ids = [model.add(generation) for generation in generations]
    last: dict[int, StepOutput] = {}
    while outputs := model.step():
        last.update((output.sequence_id, output) for output in outputs)
    return [last[sequence_id] for sequence_id in ids]


def test_a_text_follows_its_grammar_and_leaves_the_end_of_turn_out(model: LanguageModel) -> None:
    (output,) = run(model, song(model))
    assert output.text is not None and output.error is None
    assert re.fullmatch(r"<think>caption: [a-z ]{4,30}</think>(<\|audio_code_\d+\|>){12}", output.text)
    assert output.tokens >= 1 + 1 + 12 + 1


def test_seed_caption_and_guidance_change_the_text(model: LanguageModel) -> None:
    texts = [
        run(model, each)[0].text for each in (song(model), song(model, seed=1), song(model, caption="jazz"))
    ]
    unguided = run(model, replace(song(model), null_prompt=None))[0].text
    assert len({*texts, unguided}) == 4


def test_greedy_guided_texts_agree_with_transformers(toy: Path, model: LanguageModel) -> None:
    reference = Qwen3ForCausalLM.from_pretrained(toy).eval()
    chat, vocabulary = load_chat(toy)
    grammar = f"%llguidance {{}}\nstart: {codes(model, 20)}"
    generation = replace(
        song(model), grammar=grammar, sampling=TokenSampling(temperature=0, guidance_scale=2.5)
    )
    cond, null = (list(prompt) for prompt in (generation.prompt, generation.null_prompt or ()))
    first = vocabulary.first_code_id
    written: list[int] = []
    for _ in range(20):
        with torch.inference_mode():
            cond_logits, null_logits = (
                reference(torch.tensor([row + written])).logits[0, -1] for row in (cond, null)
            )
        guided = null_logits + 2.5 * (cond_logits - null_logits)
        written.append(first + int(guided[first : first + vocabulary.code_count].argmax()))
    assert run(model, generation)[0].text == chat.tokenizer.decode(written, skip_special_tokens=False)


def test_a_text_is_the_same_alone_in_a_batch_and_after_a_restart(
    toy: Path, load: Load, model: LanguageModel
) -> None:
    mine = song(model, seed=7, caption="a catchy chorus with warm pads", count=60)
    alone = run(model, mine)[0].text
    assert alone is not None
    assert run(load(toy, sequences=1), mine)[0].text == alone
    crowd = [song(model, seed, "x" * (1 + 23 * seed), count=5 + 9 * seed) for seed in range(6)]
    crowd[2] = replace(crowd[2], null_prompt=None)
    for place in (0, 3, 6):  # with four slots it also waits, and is moved when others end
        together = run(model, *crowd[:place], mine, *crowd[place:])
        assert together[place].text == alone
        assert all(output.text for output in together)


def test_a_text_in_bfloat16_is_the_same_alone_and_in_a_batch(toy: Path) -> None:
    model, mine = load_in_bfloat16(toy), "a catchy chorus with warm pads"
    alone = run(load_in_bfloat16(toy, sequences=1), song(model, seed=7, caption=mine, count=30))[0].text
    crowd = [song(model, seed, "x" * (1 + 23 * seed), count=5 + 9 * seed) for seed in range(3)]
    together = run(model, *crowd, song(model, seed=7, caption=mine, count=30))
    assert alone is not None and together[3].text == alone


def test_songs_of_one_request_share_a_prompt_and_not_a_seed(model: LanguageModel) -> None:
    alone = [run(model, song(model, seed))[0].text for seed in range(4)]
    assert [output.text for output in run(model, *(song(model, seed) for seed in range(4)))] == alone
    assert len(set(alone)) == 4


def test_later_texts_join_at_the_next_step(model: LanguageModel) -> None:
    first = model.add(song(model, count=40))
    for _ in range(5):
        model.step()
    second = model.add(song(model, seed=1))
    tokens = {output.sequence_id: output.tokens for output in model.step()}
    assert tokens[first] >= 6 and tokens[second] >= 1
    run(model)


def test_forced_tokens_are_fed_together(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_on_torch(toy)
    rules = 'start: <think> "bpm: 1" /[0-9]{2}/ " caption: " /[a-z ]{6}/ " keyscale: C major" </think> '
    asked = [
        replace(song(model, seed, "x" * seed), grammar=f"%llguidance {{}}\n{rules}{codes(model, 9)}")
        for seed in range(3)
    ]
    asked[1] = replace(asked[1], sampling=TokenSampling(repetition_penalty=1.3))
    together = run(model, *asked)
    sequence_id = model.add(asked[0])
    counts = [
        output.tokens for _ in range(80) for output in model.step() if output.sequence_id == sequence_id
    ]
    assert counts[-1] == together[0].tokens and len(counts) < counts[-1] - 10
    monkeypatch.setattr(Decoder, "takes_many", False)
    one_by_one = run(model, *asked)
    assert [each.text for each in one_by_one] == [each.text for each in together]
    assert [each.tokens for each in one_by_one] == [each.tokens for each in together]
    short = replace(asked[0], max_tokens=4)
    monkeypatch.undo()
    assert run(model, short)[0].error == "The text has not ended after 4 tokens"


def test_more_texts_than_rows_are_queued(toy: Path, load: Load) -> None:
    model = load(toy, sequences=1)
    ids = [model.add(song(model, seed)) for seed in range(3)]
    seen = []
    while outputs := model.step():
        assert len(outputs) == 1
        seen.append(outputs[0].sequence_id)
    assert seen == sorted(seen) and set(seen) == set(ids)


def test_abort_frees_the_rows_within_a_step(toy: Path, load: Load) -> None:
    model = load(toy, sequences=1)
    running, waiting, last = (model.add(song(model, seed)) for seed in range(3))
    model.step()
    model.abort(waiting)
    model.abort(running)
    model.abort(12345)
    assert [output.sequence_id for output in model.step()] == [last]
    model.abort(last)
    assert model.step() == []


def test_a_text_that_ran_out_of_memory_frees_its_rows(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_on_torch(toy, sequences=1)
    alone = run(model, song(model))
    prefill, calls = Decoder.prefill, 0

    def fails_at_the_second(self: Decoder, *args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise torch.OutOfMemoryError("Tried to allocate 20.00 GiB.")
        prefill(self, *args)

    monkeypatch.setattr(Decoder, "prefill", fails_at_the_second)
    sequence_id = model.add(song(model))
    with pytest.raises(torch.OutOfMemoryError):
        model.step()
    model.abort(sequence_id)
    assert [output.text for output in run(model, song(model))] == [output.text for output in alone]


def test_a_text_that_reaches_max_tokens_is_an_error(model: LanguageModel) -> None:
    late, whole = run(model, replace(song(model), max_tokens=9), song(model, seed=1))
    assert (late.text, late.tokens) == (None, 9)
    assert late.error == "The text has not ended after 9 tokens"
    assert whole.text is not None


def test_just_enough_tokens_are_enough(model: LanguageModel) -> None:
    needed = run(model, song(model))[0].tokens
    assert run(model, replace(song(model), max_tokens=needed))[0].text is not None
    assert run(model, replace(song(model), max_tokens=needed - 1))[0].error is not None


def test_a_text_longer_than_the_cache_is_refused(model: LanguageModel) -> None:
    with pytest.raises(PlannerError, match=r"up to 500 exceed the 512 tokens.*Shorten"):
        model.add(replace(song(model), max_tokens=500))
    with pytest.raises(PlannerError, match="A prompt of"):
        model.add(replace(song(model), null_prompt=(1,) * 600))
    assert model.step() == []


def test_an_unreadable_grammar_and_an_empty_prompt_are_refused(model: LanguageModel) -> None:
    with pytest.raises(PlannerError, match="cannot be read"):
        model.add(replace(song(model), grammar="start: %%"))
    with pytest.raises(PlannerError, match="empty"):
        model.add(replace(song(model), prompt=()))


def test_a_grammar_without_a_next_token_is_an_error(model: LanguageModel) -> None:
    nowhere = replace(song(model), grammar='%llguidance {}\nstart: "a" NOTHING\nNOTHING: /b/ & /c/')
    output, other = run(model, nowhere, song(model))
    assert output.text is None and output.error is not None
    assert output.error.startswith("The grammar could not be followed: ") and "\n" not in output.error
    assert other.text is not None


def test_the_penalty_keeps_a_text_from_repeating_itself(model: LanguageModel) -> None:
    grammar = f"%llguidance {{}}\nstart: {codes(model, 30)}"
    distinct = []
    for penalty in (1.0, 1000.0):
        sampling = TokenSampling(temperature=0, repetition_penalty=penalty)
        (output,) = run(model, replace(song(model), grammar=grammar, sampling=sampling))
        assert output.text is not None
        distinct.append(len(set(re.findall(r"\d+", output.text))))
    assert distinct[0] < distinct[1]


@st.composite
def rules(draw: st.DrawFn, depth: int = 2) -> str:
    """A small grammar rule of literals, ranges of characters, repeats and choices."""
    kinds = ["literal", "regex", "special"] + (["sequence", "choice", "repeat"] if depth else [])
    match draw(st.sampled_from(kinds)):
        case "literal":
            return '"' + draw(st.text("abc :#é明", min_size=1, max_size=5)) + '"'
        case "regex":
            return draw(
                st.sampled_from([r"/[0-9]{1,3}/", r"/[^\n]{1,6}/", r"/(.|\n){2}/", r"/[A-G](#|b|♯)?/"])
            )
        case "special":
            return draw(st.sampled_from(["<think>", "</think>", "CODES"]))
        case "sequence":
            return " ".join(draw(st.lists(rules(depth - 1), min_size=1, max_size=3)))
        case "choice":
            return "(" + " | ".join(draw(st.lists(rules(depth - 1), min_size=2, max_size=3))) + ")"
        case _:
            return f"({draw(rules(depth - 1))}){{{draw(st.integers(1, 2))},3}}"


samplings = st.builds(
    TokenSampling,
    temperature=st.sampled_from([0.0, 0.5, 0.85, 3.0]),
    top_k=st.sampled_from([0, 1, 7]),
    top_p=st.sampled_from([0.3, 0.9, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.2]),
    guidance_scale=st.sampled_from([1.0, 2.5, 7.0]),
)


@settings(
    max_examples=24,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    parts=st.lists(st.tuples(rules(), samplings, st.integers(0, 2**63)), min_size=1, max_size=4),
    data=st.data(),
)
def test_random_requests_parse_and_repeat(
    toy: Path, model: LanguageModel, parts: list[Any], data: st.DataObject
) -> None:
    first = model.vocabulary.first_code_id
    ten_codes = f"<[{first}-{first + 9}]>"
    generations = [
        replace(
            song(model, seed, caption=str(number)),
            grammar=f"%llguidance {{}}\nstart: {rule.replace('CODES', ten_codes)} <|im_end|>",
            sampling=sampling,
            max_tokens=250,
        )
        for number, (rule, sampling, seed) in enumerate(parts)
    ]
    texts = [output.text for output in run(model, *generations)]
    tokenizer = PreTrainedTokenizerFast.from_pretrained(toy)
    end = tokenizer.convert_tokens_to_ids(END_OF_TURN)
    reader = llguidance.hf.from_tokenizer(tokenizer, eos_token=end)
    for generation, text in zip(generations, texts, strict=True):
        assert text is not None
        matcher = llguidance.LLMatcher(reader, generation.grammar)
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert matcher.consume_tokens([*tokens, end]), matcher.get_error()
        assert matcher.is_stopped()
    shuffled = random.Random(data.draw(st.integers(0, 99))).sample(range(len(parts)), len(parts))
    again = run(model, *(generations[number] for number in shuffled))
    assert [output.text for output in again] == [texts[number] for number in shuffled]
