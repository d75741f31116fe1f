import random
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast, Qwen3Model

from acestep.domain.song import INSTRUMENTAL
from acestep.planner import codes as audio_codes
from acestep.planner import metadata
from acestep.planner.language_model import spelled
from acestep.planner.loading import load_language_model
from acestep.weights.safetensors import LoadTarget
from training.nano.composer import compose
from training.nano.dialogues import Dialogue, dialogue
from training.nano.planner import Bearings, batch, build, surprise, train_tokenizer

PIECE = compose(3)
CODES = tuple(range(50))


def dialogues(count: int) -> list[Dialogue]:
    rng = random.Random(0)
    return [dialogue(PIECE, 10, CODES, rng) for _ in range(count)]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(dialogues(60), 512)


def test_every_answer_is_true_and_can_be_read() -> None:
    kinds = set()
    for each in dialogues(80):
        system, user = each.messages
        kinds.add(spelled(system.content))
        if "<|audio_code_" in each.answer:
            block, _, codes = each.answer.partition("\n\n")
            facts = metadata.read(block)
            assert audio_codes.read(codes) == CODES
        else:
            draft = metadata.read_draft(each.answer)
            facts = draft.metadata
            assert draft.lyrics == INSTRUMENTAL
            assert facts.caption
        assert (facts.bpm, facts.key_scale, facts.duration) == (PIECE.bpm, PIECE.key_scale, 10)
        assert facts.time_signature == PIECE.time_signature
        assert ("<|audio_code_" in spelled(user.content)) == ("Understand" in spelled(system.content))
    assert len(kinds) == 4


def test_only_answers_are_learned(tokenizer: PreTrainedTokenizerFast) -> None:
    two = dialogues(2)
    tokens = batch(tokenizer, two)
    for each, row, learned in zip(two, tokens.ids, tokens.labels, strict=True):
        assert tokenizer.decode(row[learned != -100]) == each.answer + "<|im_end|>"
        asked = tokenizer.decode(row[: int((learned != -100).nonzero()[0])])
        assert asked.startswith("<|im_start|>system\n# Instruction\n")
        assert asked.endswith("<|im_start|>assistant\n")


def test_codes_are_counted_from_the_beginning_of_the_song(tokenizer: PreTrainedTokenizerFast) -> None:
    tokens = batch(tokenizer, dialogues(8))
    first = tokenizer.convert_tokens_to_ids("<|audio_code_0|>")
    for row, counts in zip(tokens.ids, tokens.codes, strict=True):
        # The sketch is code 0, 1, 2 …, so a code's own number tells how many came before it.
        assert (counts[row >= first] == row[row >= first] - first + 1).all()
        assert (counts[row < first] == 0).all()


def test_the_metronome_asks_where_codes_are_written_and_nowhere_else(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    torch.manual_seed(0)
    tokens = batch(tokenizer, dialogues(12))
    hidden = torch.randn(*tokens.ids.shape, 16, requires_grad=True)
    Bearings(16).lost(hidden, tokens).backward()  # type: ignore[no-untyped-call]
    assert hidden.grad is not None
    asked = hidden.grad.abs().sum(dim=-1) > 0
    assert torch.equal(asked, (tokens.codes > 0) & (tokens.labels != -100))
    assert 0 < asked.any(dim=1).sum() < 12  # not those who understand or draft


def test_a_fact_weighs_more_than_a_code_and_a_question_nothing(tokenizer: PreTrainedTokenizerFast) -> None:
    tokens = batch(tokenizer, dialogues(12))
    torch.manual_seed(0)
    logits = torch.randn(*tokens.ids.shape, len(tokenizer), requires_grad=True)
    surprise(logits, tokens).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    # The gradient of a softmax at the wanted token: the token's weight times 1 - p, and p is next to nothing.
    pull = logits.grad.abs().amax(dim=-1)[:, :-1]
    learned, code = tokens.labels[:, 1:] != -100, tokens.codes[:, 1:] > 0
    assert (pull[~learned] == 0).all()
    words, codes = pull[learned & ~code], pull[learned & code]
    assert float(words.median() / codes.median()) == pytest.approx(4.0, rel=0.05)


def test_what_is_written_loads_as_a_planner(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build(len(tokenizer))
    assert 2e6 < sum(weight.numel() for weight in model.parameters()) < 4e6
    model.to(torch.bfloat16).save_pretrained(tmp_path / "lm")
    tokenizer.save_pretrained(tmp_path / "lm")
    parts = load_language_model(tmp_path / "lm", LoadTarget(torch.device("cpu"), torch.float32))
    assert parts.vocabulary.code_count == 512
    ids = batch(tokenizer, dialogues(1)).ids
    theirs = Qwen3Model.from_pretrained(tmp_path / "lm", dtype=torch.float32)(ids).last_hidden_state
    torch.testing.assert_close(parts.model(ids), theirs, atol=1e-4, rtol=1e-4)
