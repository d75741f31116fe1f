"""Guidance inside an engine that samples each row by itself, and reorders its rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

import pytest
import torch
from torch import Tensor
from transformers import Qwen3ForCausalLM

from acestep.planner.backends.cfg_rows import BatchChanges, BatchRow, CfgRows
from acestep.planner.backends.grammars import Grammars
from acestep.planner.backends.sequence import TextSequence, prompts_of
from acestep.planner.language_model import Generation, StepOutput, TokenSampling
from acestep.planner.loading import END_OF_TURN, load_chat
from tests.planner.backends.test_pt import run, song
from tests.planner.loaders import load_on_torch

SIZE = 448  # rows of the output head; see toy.py
ANYTHING = "start: ( <[0-200]> ){40}"
GREEDY = TokenSampling(temperature=0)
Start = Callable[[Generation], TextSequence]


@pytest.fixture(scope="module")
def reference(toy: Path) -> Qwen3ForCausalLM:
    return Qwen3ForCausalLM.from_pretrained(toy).eval()


@pytest.fixture
def grammars(toy: Path, reference: Qwen3ForCausalLM) -> Grammars:
    chat, vocabulary = load_chat(toy)
    return Grammars(chat.tokenizer, vocabulary, SIZE)


@pytest.fixture
def cfg_rows(toy: Path, grammars: Grammars) -> CfgRows:
    return CfgRows(grammars, lambda tokens: load_chat(toy)[0].text(tokens, END_OF_TURN))


@pytest.fixture
def start(grammars: Grammars, cfg_rows: CfgRows) -> Start:
    """Adds a generation to the batch; its id is its seed."""

    def start(generation: Generation) -> TextSequence:
        sequence = TextSequence.begin(generation.seed, generation, grammars)
        sequence.mark_prompt(SIZE, torch.device("cpu"))
        cfg_rows.add(sequence, len(prompts_of(generation, 1000, "toy")))
        return sequence

    return start


def generation(sequence_id: int = 0, grammar: str = ANYTHING, sampling: TokenSampling = GREEDY) -> Generation:
    return Generation((1, 2), grammar, sampling, sequence_id, max_tokens=50, null_prompt=(1,))


def left(logits: Tensor) -> list[list[int]]:
    """The tokens of each row that are not masked."""
    return [(row > -torch.inf).nonzero().flatten().tolist() for row in logits]


def logits(rows: int, **likely: int) -> Tensor:
    """Zeros, but for the likely token of a row: `row_0=7`."""
    even = torch.zeros(rows, SIZE)
    for row, token in likely.items():
        even[int(row.removeprefix("row_")), token] = 9.0
    return even


def test_both_rows_of_a_text_keep_the_guided_token(cfg_rows: CfgRows, start: Start) -> None:
    start(generation())
    cfg_rows.update(BatchChanges(added=[(0, BatchRow(0, 0, [])), (1, BatchRow(0, 1, []))]))
    given = torch.randn(2, SIZE, generator=torch.Generator().manual_seed(1))
    guided = given[1] + 2.5 * (given[0] - given[1])
    expected = int(guided[:201].argmax())
    assert expected != int(given[0, :201].argmax())
    assert left(cfg_rows.sample(given)) == [[expected], [expected]]
    assert cfg_rows.take_outputs() == [StepOutput(0, 1)]
    assert cfg_rows.take_outputs() == []


def test_rows_of_unknown_texts_are_not_masked(cfg_rows: CfgRows, start: Start) -> None:
    given = logits(2, row_0=7)
    assert torch.equal(cfg_rows.sample(given.clone()), given)
    start(generation())
    cfg_rows.update(
        BatchChanges(added=[(1, BatchRow(0, 0, [])), (2, BatchRow(0, 1, [])), (0, BatchRow(5, 0, []))])
    )
    given = logits(3, row_1=7)
    assert torch.equal(cfg_rows.sample(given.clone())[0], given[0])


def test_rows_are_found_after_they_moved(cfg_rows: CfgRows, start: Start) -> None:
    for sequence_id in (0, 1):
        start(generation(sequence_id))
    rows = [BatchRow(sequence_id, prompt, []) for sequence_id in (0, 1) for prompt in (0, 1)]
    cfg_rows.update(BatchChanges(added=list(enumerate(rows))))
    # 0a 0b 1a 1b; 0a and 1b change places, and 0b moves past the end.
    cfg_rows.update(BatchChanges(moved=[(0, 3, True), (1, 4, False)]))
    given = logits(5, row_3=7, row_2=8)
    assert [sorted(row)[:1] for row in left(cfg_rows.sample(given))] == [[8], [0], [8], [7], [7]]
    cfg_rows.remove(0)
    cfg_rows.update(BatchChanges(removed=[3, 4]))
    for row in rows:
        row.output.append(0)
    cfg_rows.take_outputs()
    cfg_rows.sample(logits(5, row_2=9))
    assert [output.sequence_id for output in cfg_rows.take_outputs()] == [1]


@pytest.mark.parametrize("late", [None, BatchRow(0, 1, [7])], ids=["missing", "a step ahead"])
def test_rows_at_different_tokens_end_the_text(
    late: BatchRow | None, cfg_rows: CfgRows, start: Start
) -> None:
    start(generation())
    rows = [BatchRow(0, 0, []), *([late] if late else [])]
    cfg_rows.update(BatchChanges(added=list(enumerate(rows))))
    cfg_rows.sample(logits(len(rows)))
    (output,) = cfg_rows.take_outputs()
    assert output.error == "The engine put its two prompts into different steps" and output.tokens == 0


def test_a_text_without_rows_is_queued_in_the_engine(cfg_rows: CfgRows, start: Start) -> None:
    waiting, running = start(generation(0)), start(replace(generation(1), null_prompt=None))
    cfg_rows.update(BatchChanges(added=[(0, BatchRow(1, 0, []))]))
    cfg_rows.sample(logits(1))
    assert (waiting.tokens, len(running.tokens)) == ([], 1)


def test_a_grammar_without_a_next_token_ends_only_its_text(cfg_rows: CfgRows, start: Start) -> None:
    for sequence_id, grammar in enumerate(('start: "a" NOTHING\nNOTHING: /b/ & /c/', ANYTHING)):
        start(replace(generation(sequence_id, grammar), null_prompt=None))
    rows = [BatchRow(sequence_id, 0, []) for sequence_id in (0, 1)]
    cfg_rows.update(BatchChanges(added=list(enumerate(rows))))
    for row, token in zip(rows, cfg_rows.sample(logits(2)).argmax(-1).tolist(), strict=True):
        row.output.append(token)
    cfg_rows.take_outputs()
    cfg_rows.sample(logits(2))
    broken, whole = cfg_rows.take_outputs()
    assert broken.error is not None and broken.error.startswith("The grammar could not be followed")
    assert whole == StepOutput(1, 2)


@dataclass
class Engine:
    """Samples each row of a batch by itself, greedily, and shuffles the batch at each step."""

    reference: Qwen3ForCausalLM
    cfg_rows: CfgRows
    rows: list[tuple[BatchRow, list[int]]] = field(default_factory=list)
    random: Random = field(default_factory=lambda: Random(0))

    def add(self, sequence_id: int, prompts: list[tuple[int, ...]]) -> None:
        for number, prompt in enumerate(prompts):
            row = BatchRow(sequence_id, number, [])
            self.cfg_rows.update(BatchChanges(added=[(len(self.rows), row)]))
            self.rows.append((row, list(prompt)))

    def step(self) -> list[StepOutput]:
        one, other = (self.random.randrange(len(self.rows)) for _ in range(2))
        if one != other:
            self.rows[one], self.rows[other] = self.rows[other], self.rows[one]
            self.cfg_rows.update(BatchChanges(moved=[(one, other, True)]))
        with torch.inference_mode():
            each = [
                self.reference(torch.tensor([[*prompt, *row.output]])).logits[0, -1]
                for row, prompt in self.rows
            ]
            chosen = self.cfg_rows.sample(torch.stack(each).float()).argmax(-1).tolist()
        for (row, _), token in zip(self.rows, chosen, strict=True):
            row.output.append(token)
        outputs = self.cfg_rows.take_outputs()
        for output in outputs:
            if output.text is not None:
                self.remove(output.sequence_id)
        return outputs

    def remove(self, sequence_id: int) -> None:
        """The last rows fill the gaps."""
        self.cfg_rows.remove(sequence_id)
        for row in reversed(range(len(self.rows))):
            if self.rows[row][0].sequence_id == sequence_id:
                last = len(self.rows) - 1
                self.rows[row] = self.rows[last]
                self.rows.pop()
                changes = BatchChanges([row], moved=[(last, row, False)] if row != last else [])
                self.cfg_rows.update(changes)


def test_another_engine_generates_the_same_texts(
    toy: Path, reference: Qwen3ForCausalLM, cfg_rows: CfgRows, start: Start
) -> None:
    model = load_on_torch(toy)
    songs = [song(model, seed, "pop" * (1 + seed), count=4 + 3 * seed) for seed in range(4)]
    songs[1] = replace(songs[1], null_prompt=None)
    songs[2] = replace(songs[2], sampling=TokenSampling(repetition_penalty=1.3, top_k=30))
    engine = Engine(reference, cfg_rows)
    texts: dict[int, str | None] = {}
    for each in songs:
        start(each)
        engine.add(each.seed, prompts_of(each, 1000, "toy"))
    while engine.rows:
        texts |= {output.sequence_id: output.text for output in engine.step()}
    assert [texts[each.seed] for each in songs] == [output.text for output in run(model, *songs)]
