"""Which tokens a grammar allows next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import llguidance
import llguidance.hf
import llguidance.numpy
import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from acestep.errors import PlannerError
from acestep.planner.language_model import Vocabulary

# Up to so many scattered rows of the head are gathered; for more, a pass over the whole is cheaper.
_FEW = 2048


@dataclass(frozen=True, slots=True, eq=False)
class Allowed:
    """The tokens that may come next: `rows` of the vocabulary, without those where `barred` is set.

    `rows` are a slice or sorted ids, never empty. `barred` is as long as `rows`; None: nothing is.
    """

    rows: slice | NDArray[np.int64]
    barred: NDArray[np.bool_] | None = None

    @property
    def forced(self) -> int | None:
        """The token, where there is no choice."""
        if isinstance(self.rows, slice) or len(self.rows) > 1:
            return None
        return int(self.rows[0])

    def token(self, index: int) -> int:
        """The token that `rows` have at `index`."""
        return int(self.rows.start) + index if isinstance(self.rows, slice) else int(self.rows[index])


class Constraint:
    """Where one text stands in its grammar."""

    def __init__(self, matcher: llguidance.LLMatcher) -> None:
        self.matcher = matcher

    @property
    def ended(self) -> bool:
        """Nothing more can come."""
        return bool(self.matcher.is_stopped())

    @property
    def error(self) -> str:
        """Why the grammar could not be followed; empty if it could."""
        return str(self.matcher.get_error()) if self.matcher.is_error() else ""

    def forced(self) -> list[int]:
        """The tokens that come next whatever is thought of them: each is what `allowed` would leave."""
        return list(self.matcher.compute_ff_tokens())

    def advance(self, token: int) -> None:
        """Take a token that was allowed."""
        self.matcher.consume_token(token)


class Grammars:
    """Reads grammars for one tokenizer, and says for many texts at once what they allow."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, vocabulary: Vocabulary, size: int) -> None:
        """`size`: how many rows the output head has, which may be more than there are tokens."""
        end = tokenizer.convert_tokens_to_ids(vocabulary.end_of_turn)
        self._tokenizer = grammar_tokenizer(tokenizer, size, end)
        self._executor = llguidance.LLExecutor()
        self._size = size
        self._codes = slice(vocabulary.first_code_id, vocabulary.first_code_id + vocabulary.code_count)
        bits = np.zeros(llguidance.numpy.get_bitmask_shape(1, size)[1] * 32, np.uint8)
        bits[self._codes] = 1
        self._code_bits = np.packbits(bits, bitorder="little").view(np.int32)
        self._every_code = Allowed(self._codes) if vocabulary.code_count > 1 else None

    def read(self, grammar: str) -> Constraint:
        """Start at a grammar's beginning. Raises PlannerError that quotes what is wrong with it."""
        constraint = Constraint(llguidance.LLMatcher(self._tokenizer, grammar, log_level=0))
        if constraint.error:
            raise PlannerError(f"The grammar cannot be read: {constraint.error}")
        return constraint

    def allowed(self, constraints: Sequence[Constraint]) -> list[Allowed | None]:
        """What each allows next; None where that cannot be told, and the constraint has an error."""
        bits = llguidance.numpy.allocate_token_bitmask(len(constraints), self._size)
        if len(constraints) == 1:  # not worth a thread
            llguidance.numpy.fill_next_token_bitmask(constraints[0].matcher, bits)
        else:
            matchers = [(constraint.matcher, n) for n, constraint in enumerate(constraints)]
            llguidance.numpy.fill_next_token_bitmask_par(self._executor, matchers, bits)
        return [
            None if constraint.error else self._sorted_out(row)
            for constraint, row in zip(constraints, bits, strict=True)
        ]

    def _sorted_out(self, bits: NDArray[np.int32]) -> Allowed | None:
        if self._every_code and np.array_equal(bits, self._code_bits):  # nearly always
            return self._every_code
        mask = np.unpackbits(bits.view(np.uint8), count=self._size, bitorder="little").view(np.bool_)
        count = np.count_nonzero(mask)
        codes = mask[self._codes]
        if count > 1 and count == np.count_nonzero(codes):
            return Allowed(self._codes, None if codes.all() else ~codes)
        if count <= _FEW:
            ids = np.flatnonzero(mask)
            return Allowed(ids) if len(ids) else None
        return Allowed(slice(0, self._size), ~mask)


class _Bytes:
    """What `llguidance.TokenizerWrapper` asks for."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, tokens: list[bytes], end: int) -> None:
        self._backend = tokenizer.backend_tokenizer
        self.tokens = tokens
        self.special_token_ids = sorted(tokenizer.added_tokens_decoder)
        self.eos_token_id = end
        self.bos_token_id = None

    def __call__(self, text: str | bytes) -> list[int]:
        if isinstance(text, bytes):
            text = text.decode("utf-8", errors="replace")
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids


def grammar_tokenizer(tokenizer: PreTrainedTokenizerFast, size: int, end: int) -> llguidance.LLTokenizer:
    """The tokenizer for grammars; `size` rows of the output head, of which `end` ends a text."""
    tokens = _token_bytes(tokenizer, size)
    if tokens is None:
        return llguidance.hf.from_tokenizer(tokenizer, n_vocab=size, eos_token=end)
    wrapper = llguidance.TokenizerWrapper(_Bytes(tokenizer, tokens, end))
    return llguidance.LLTokenizer(wrapper, eos_token=end)


def _token_bytes(tokenizer: PreTrainedTokenizerFast, size: int) -> list[bytes] | None:
    """The bytes of each row's token, none where there is no token; None if it is no byte-level tokenizer."""
    added = {number: token.content for number, token in tokenizer.added_tokens_decoder.items()}
    letters = {letter: byte for byte, letter in enumerate(_byte_letters())}
    tokens = [b""] * size
    for token, number in tokenizer.get_vocab().items():
        if number in added:
            tokens[number] = added[number].encode()
        elif letters.keys() >= set(token):
            tokens[number] = bytes(letters[letter] for letter in token)
        else:
            return None
    return tokens


def _byte_letters() -> list[str]:
    """What byte-level BPE writes for each byte: the letter, or one from U+0100 on where that is unseen."""
    seen = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = iter(range(0x100, 0x200))
    return [chr(byte if byte in seen else next(hidden)) for byte in range(256)]
