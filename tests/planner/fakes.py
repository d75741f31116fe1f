"""A language model without weights, which takes random tokens that its grammar allows."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import llguidance
import llguidance.numpy
import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from acestep.planner.backends.chat import Chat
from acestep.planner.language_model import Generation, Message, StepOutput, Text, Vocabulary
from acestep.planner.lexicon import Lexicon

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{m.role}}\n{{m.content}}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
END_OF_TURN = "<|im_end|>"
CODES = 50
SPARE_CODES = 5  # tokens beyond the codebook, as the published tokenizers have
# Beside the bytes: pieces that reach across the seams of a grammar.
_WORDS = (
    "caption",
    ": ",
    "\n  ",
    "\n\n",
    ":\n",
    "'\n",
    " #",
    "''",
    " 'n'",
    " pop",
    "120",
    "# Lyric\n",
    "明る",
)
# What leads out of free text sooner or later.
_WAYS_OUT = (b"\n", b"</think>", END_OF_TURN.encode())


@cache
def tokenizer() -> Tokenizer:
    """Bytes, a few longer pieces, the markers, and the audio codes."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    pieces = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces += ["".join(piece for piece, _ in byte_level.pre_tokenize_str(word)) for word in _WORDS]
    made = Tokenizer(models.BPE(vocab={piece: n for n, piece in enumerate(pieces)}, merges=[]))
    made.pre_tokenizer = byte_level
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<|im_start|>", END_OF_TURN])
    codes = [f"<|audio_code_{n}|>" for n in range(CODES + SPARE_CODES)]
    markers = ["<think>", "</think>", *codes]  # as published: tokens of their own, yet not marked special
    made.add_tokens([AddedToken(marker, special=False, normalized=False) for marker in markers])
    return made


@cache
def guide() -> llguidance.LLTokenizer:
    """The tokenizer of grammars."""
    return llguidance.LLTokenizer(tokenizer().to_str(), eos_token=_id(END_OF_TURN))


@cache
def chat() -> Chat:
    return Chat(tokenizer(), CHAT_TEMPLATE)


def read(prompt: tuple[int, ...] | None) -> str:
    """A prompt as text."""
    return tokenizer().decode(list(prompt or ()), skip_special_tokens=False)


def _id(token: str) -> int:
    found = tokenizer().token_to_id(token)
    assert found is not None
    return found


@dataclass
class _Walk:
    generation: Generation
    matcher: llguidance.LLMatcher
    chance: random.Random
    tokens: list[int]


class WalkingModel:
    """A `LanguageModel` whose texts are as odd as their grammars allow.

    Where free text may end, it does with a chance of `haste`; None: only where nothing else is allowed.
    What was asked of it stands in `generations`; `together` is how many texts each step wrote, `aborted` the
    aborted sequence ids, `closed` the number of `close` calls.
    """

    name = "acestep-5Hz-lm-toy"

    def __init__(self, haste: float | None = 0.1) -> None:
        self.haste = haste
        self.lexicon = Lexicon()
        self.generations: list[Generation] = []
        self.together: list[int] = []
        self.aborted: list[int] = []
        self.closed = 0
        self._walks: dict[int, _Walk] = {}

    @property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary(_id("<|audio_code_0|>"), CODES, END_OF_TURN, self.lexicon)

    def render(self, messages: Sequence[Message], open_turn: Text = "") -> tuple[int, ...]:
        return chat().tokens(messages, open_turn)

    def spells(self, word: str) -> bool:
        return chat().spells(word)

    def add(self, generation: Generation) -> int:
        matcher = llguidance.LLMatcher(guide(), generation.grammar, log_level=0)
        assert not matcher.is_error(), matcher.get_error()
        sequence_id = len(self.generations)
        self.generations.append(generation)
        self._walks[sequence_id] = _Walk(generation, matcher, random.Random(generation.seed), [])
        return sequence_id

    def abort(self, sequence_id: int) -> None:
        self.aborted.append(sequence_id)
        self._walks.pop(sequence_id, None)

    def close(self) -> None:
        self.closed += 1

    def step(self) -> Sequence[StepOutput]:
        self.together.append(len(self._walks))
        return [self._advance(sequence_id, walk) for sequence_id, walk in list(self._walks.items())]

    def _advance(self, sequence_id: int, walk: _Walk) -> StepOutput:
        token = self._choose(walk)
        walk.matcher.consume_token(token)
        walk.tokens.append(token)
        count = len(walk.tokens)
        assert not walk.matcher.is_error(), walk.matcher.get_error()
        if walk.matcher.is_stopped():
            del self._walks[sequence_id]
            text = tokenizer().decode(walk.tokens, skip_special_tokens=False)
            return StepOutput(sequence_id, count, text=text.removesuffix(END_OF_TURN))
        if count >= walk.generation.max_tokens:
            del self._walks[sequence_id]
            return StepOutput(sequence_id, count, error="It did not end.")
        return StepOutput(sequence_id, count)

    def _choose(self, walk: _Walk) -> int:
        bits = llguidance.numpy.allocate_token_bitmask(1, guide().vocab_size)
        llguidance.numpy.fill_next_token_bitmask(walk.matcher, bits)
        mask = np.unpackbits(bits.view(np.uint8), bitorder="little")
        ways_out = [token for token in _ways_out() if mask[token]]
        if ways_out and self.haste is None:
            mask[ways_out] = mask.sum() == len(ways_out)
        elif ways_out and walk.chance.random() < (self.haste or 0.0):
            return walk.chance.choice(ways_out)
        return int(walk.chance.choice(np.flatnonzero(mask)))


@cache
def _ways_out() -> tuple[int, ...]:
    words = {n: guide().decode_bytes([n]) for n in range(guide().vocab_size)}
    return tuple(n for n, word in words.items() if word in _WAYS_OUT)


def write_now(model: WalkingModel, generation: Generation) -> str:
    """The text of one generation."""
    sequence_id = model.add(generation)
    while True:
        for output in model.step():
            if output.sequence_id == sequence_id and (output.text is not None or output.error is not None):
                assert output.text is not None, output.error
                return output.text
