"""Tokens chosen inside an engine that samples each row by itself, and moves its rows about."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import Qwen3ForCausalLM

from acestep.planner.backends.cfg_rows import CfgRows, Changes, Place
from acestep.planner.backends.grammars import Grammars
from acestep.planner.backends.sequence import TextSequence, prompts_of
from acestep.planner.language_model import Generation, StepOutput, TokenSampling
from acestep.planner.loading import load_tokenizer
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
    return Grammars(*load_tokenizer(toy), SIZE)


@pytest.fixture
def cfg_rows(toy: Path, grammars: Grammars) -> CfgRows:
    return CfgRows(grammars, lambda tokens: load_tokenizer(toy)[0].decode(tokens).removesuffix("<|im_end|>"))


@pytest.fixture
def start(grammars: Grammars, cfg_rows: CfgRows) -> Start:
    """Announces a generation to the pairing; its ticket is its seed."""

    def start(generation: Generation) -> TextSequence:
        chance = torch.Generator("cpu").manual_seed(generation.seed)
        writing = TextSequence(generation.seed, generation, grammars.read(generation.grammar), chance)
        if generation.sampling.repetition_penalty != 1:
            writing.seen = torch.zeros(SIZE, dtype=torch.bool)
            writing.seen[list(generation.prompt)] = True
        cfg_rows.enter(writing, len(prompts_of(generation, 1000, "toy")))
        return writing

    return start


def generation(ticket: int = 0, grammar: str = ANYTHING, sampling: TokenSampling = GREEDY) -> Generation:
    return Generation((1, 2), grammar, sampling, ticket, max_tokens=50, null_prompt=(1,))


def left(logits: Tensor) -> list[list[int]]:
    """The tokens that a row can still become."""
    return [(row > -torch.inf).nonzero().flatten().tolist() for row in logits]


def logits(rows: int, **likely: int) -> Tensor:
    """Even ones, but for the tokens that are likely in a row: `row_0=7`."""
    even = torch.zeros(rows, SIZE)
    for row, token in likely.items():
        even[int(row.removeprefix("row_")), token] = 9.0
    return even


def test_both_rows_of_a_pair_are_left_the_token_that_guidance_finds(cfg_rows: CfgRows, start: Start) -> None:
    start(generation())
    cfg_rows.update(Changes(added=[(0, Place(0, 0, [])), (1, Place(0, 1, []))]))
    given = torch.randn(2, SIZE, generator=torch.Generator().manual_seed(1))
    guided = given[1] + 2.5 * (given[0] - given[1])
    expected = int(guided[:201].argmax())
    assert expected != int(given[0, :201].argmax())
    assert left(cfg_rows.choose(given)) == [[expected], [expected]]
    assert cfg_rows.advances() == [StepOutput(0, 1)]
    assert cfg_rows.advances() == []


def test_rows_of_nobody_stay_as_they_are(cfg_rows: CfgRows, start: Start) -> None:
    given = logits(2, row_0=7)
    assert torch.equal(cfg_rows.choose(given.clone()), given)
    start(generation())
    cfg_rows.update(Changes(added=[(1, Place(0, 0, [])), (2, Place(0, 1, [])), (0, Place(5, 0, []))]))
    given = logits(3, row_1=7)
    assert torch.equal(cfg_rows.choose(given.clone())[0], given[0])


def test_rows_are_followed(cfg_rows: CfgRows, start: Start) -> None:
    for ticket in (0, 1):
        start(generation(ticket))
    places = [Place(ticket, part, []) for ticket in (0, 1) for part in (0, 1)]
    cfg_rows.update(Changes(added=list(enumerate(places))))
    # 0a 0b 1a 1b; 0a and 1b change places, and 0b moves past the end.
    cfg_rows.update(Changes(moved=[(0, 3, True), (1, 4, False)]))
    given = logits(5, row_3=7, row_2=8)
    assert [sorted(row)[:1] for row in left(cfg_rows.choose(given))] == [[8], [0], [8], [7], [7]]
    cfg_rows.leave(0)
    cfg_rows.update(Changes(removed=[3, 4]))
    for place in places:
        place.written.append(0)
    cfg_rows.advances()
    cfg_rows.choose(logits(5, row_2=9))
    assert [advance.ticket for advance in cfg_rows.advances()] == [1]


@pytest.mark.parametrize("late", [None, Place(0, 1, [7])], ids=["missing", "a step ahead"])
def test_rows_that_are_apart_end_the_text(late: Place | None, cfg_rows: CfgRows, start: Start) -> None:
    start(generation())
    rows = [Place(0, 0, []), *([late] if late else [])]
    cfg_rows.update(Changes(added=list(enumerate(rows))))
    cfg_rows.choose(logits(len(rows)))
    (advance,) = cfg_rows.advances()
    assert advance.error == "The engine ran its two prompts apart" and advance.tokens == 0


def test_a_text_that_waits_in_the_engine_is_left_alone(cfg_rows: CfgRows, start: Start) -> None:
    waiting, running = start(generation(0)), start(replace(generation(1), null_prompt=None))
    cfg_rows.update(Changes(added=[(0, Place(1, 0, []))]))
    cfg_rows.choose(logits(1))
    assert (waiting.tokens, len(running.tokens)) == ([], 1)


def test_a_grammar_that_leads_nowhere_ends_its_text_alone(cfg_rows: CfgRows, start: Start) -> None:
    for ticket, grammar in enumerate(('start: "a" NOTHING\nNOTHING: /b/ & /c/', ANYTHING)):
        start(replace(generation(ticket, grammar), null_prompt=None))
    places = [Place(ticket, 0, []) for ticket in (0, 1)]
    cfg_rows.update(Changes(added=list(enumerate(places))))
    for place, token in zip(places, cfg_rows.choose(logits(2)).argmax(-1).tolist(), strict=True):
        place.written.append(token)
    cfg_rows.advances()
    cfg_rows.choose(logits(2))
    broken, whole = cfg_rows.advances()
    assert broken.error is not None and broken.error.startswith("The grammar could not be followed")
    assert whole == StepOutput(1, 2)


@dataclass
class Engine:
    """Samples each row of a batch by itself, greedily, and shuffles the batch at each step."""

    reference: Qwen3ForCausalLM
    cfg_rows: CfgRows
    rows: list[tuple[Place, list[int]]] = field(default_factory=list)
    chance: random.Random = field(default_factory=lambda: random.Random(0))

    def add(self, ticket: int, prompts: list[tuple[int, ...]]) -> None:
        for part, prompt in enumerate(prompts):
            place = Place(ticket, part, [])
            self.cfg_rows.update(Changes(added=[(len(self.rows), place)]))
            self.rows.append((place, list(prompt)))

    def step(self) -> list[StepOutput]:
        one, other = (self.chance.randrange(len(self.rows)) for _ in range(2))
        if one != other:
            self.rows[one], self.rows[other] = self.rows[other], self.rows[one]
            self.cfg_rows.update(Changes(moved=[(one, other, True)]))
        with torch.inference_mode():
            each = [
                self.reference(torch.tensor([[*prompt, *place.written]])).logits[0, -1]
                for place, prompt in self.rows
            ]
            chosen = self.cfg_rows.choose(torch.stack(each).float()).argmax(-1).tolist()
        for (place, _), token in zip(self.rows, chosen, strict=True):
            place.written.append(token)
        advances = self.cfg_rows.advances()
        for advance in advances:
            if advance.text is not None:
                self.remove(advance.ticket)
        return advances

    def remove(self, ticket: int) -> None:
        """The last rows fill the gaps."""
        self.cfg_rows.leave(ticket)
        for row in reversed(range(len(self.rows))):
            if self.rows[row][0].ticket == ticket:
                last = len(self.rows) - 1
                self.rows[row] = self.rows[last]
                self.rows.pop()
                changes = Changes([row], moved=[(last, row, False)] if row != last else [])
                self.cfg_rows.update(changes)


def test_another_engine_writes_what_pytorch_writes(
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
        texts |= {advance.ticket: advance.text for advance in engine.step()}
    assert [texts[each.seed] for each in songs] == [advance.text for advance in run(model, *songs)]
