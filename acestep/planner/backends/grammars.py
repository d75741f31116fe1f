from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import llguidance
import llguidance.numpy
import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from acestep.errors import PlannerError
from acestep.planner.language_model import Vocabulary

# Up to so many rows of the head are gathered; for more, a product with the whole head is faster.
_MAX_GATHERED = 2048


@dataclass(frozen=True, slots=True, eq=False)
class Allowed:
    """The tokens that may come next: `rows` (a slice or sorted ids, never empty) where not `barred`."""

    rows: slice | NDArray[np.int64]
    barred: NDArray[np.bool_] | None = None

    @property
    def forced(self) -> int | None:
        """The token, if only one is allowed."""
        if isinstance(self.rows, slice) or len(self.rows) > 1:
            return None
        return int(self.rows[0])

    def token(self, index: int) -> int:
        return int(self.rows.start) + index if isinstance(self.rows, slice) else int(self.rows[index])


class Constraint:
    def __init__(self, matcher: llguidance.LLMatcher) -> None:
        self.matcher = matcher

    @property
    def ended(self) -> bool:
        return bool(self.matcher.is_stopped())

    @property
    def error(self) -> str:
        return str(self.matcher.get_error()) if self.matcher.is_error() else ""

    def forced(self) -> list[int]:
        """The tokens that must come next, one after the other."""
        return list(self.matcher.compute_ff_tokens())

    def consume(self, token: int) -> None:
        self.matcher.consume_token(token)


class Grammars:
    def __init__(self, tokenizer: Tokenizer, vocabulary: Vocabulary, size: int) -> None:
        end = tokenizer.token_to_id(vocabulary.end_of_turn)
        assert end is not None
        self._tokenizer = grammar_tokenizer(tokenizer, size, end)
        self._executor = llguidance.LLExecutor()
        self._size = size
        self._codes = slice(vocabulary.first_code_id, vocabulary.first_code_id + vocabulary.code_count)
        bits = np.zeros(llguidance.numpy.get_bitmask_shape(1, size)[1] * 32, np.uint8)
        bits[self._codes] = 1
        self._code_bits = np.packbits(bits, bitorder="little").view(np.int32)
        self._every_code = Allowed(self._codes) if vocabulary.code_count > 1 else None

    def read(self, grammar: str) -> Constraint:
        """Raises PlannerError if the grammar cannot be read."""
        constraint = Constraint(llguidance.LLMatcher(self._tokenizer, grammar, log_level=0))
        if constraint.error:
            raise PlannerError(f"The grammar cannot be read: {constraint.error}")
        return constraint

    def allowed(self, constraints: Sequence[Constraint]) -> list[Allowed | None]:
        """The allowed tokens of each; None: none is, or the constraint has an error."""
        bits = llguidance.numpy.allocate_token_bitmask(len(constraints), self._size)
        if len(constraints) == 1:  # without threads
            llguidance.numpy.fill_next_token_bitmask(constraints[0].matcher, bits)
        else:
            matchers = [(constraint.matcher, n) for n, constraint in enumerate(constraints)]
            llguidance.numpy.fill_next_token_bitmask_par(self._executor, matchers, bits)
        return [
            None if constraint.error else self._read_mask(row)
            for constraint, row in zip(constraints, bits, strict=True)
        ]

    def _read_mask(self, bits: NDArray[np.int32]) -> Allowed | None:
        if self._every_code and np.array_equal(bits, self._code_bits):  # most of the steps of a song
            return self._every_code
        mask = np.unpackbits(bits.view(np.uint8), count=self._size, bitorder="little").view(np.bool_)
        count = np.count_nonzero(mask)
        codes = mask[self._codes]
        if count > 1 and count == np.count_nonzero(codes):
            return Allowed(self._codes, None if codes.all() else ~codes)
        if count <= _MAX_GATHERED:
            ids = np.flatnonzero(mask)
            return Allowed(ids) if len(ids) else None
        return Allowed(slice(0, self._size), ~mask)


class _Bytes:
    # The interface that `llguidance.TokenizerWrapper` expects.
    def __init__(self, tokenizer: Tokenizer, tokens: list[bytes], end: int) -> None:
        self._tokenizer = tokenizer
        self.tokens = tokens
        self.special_token_ids = sorted(tokenizer.get_added_tokens_decoder())
        self.eos_token_id = end
        self.bos_token_id = None

    def __call__(self, text: str | bytes) -> list[int]:
        if isinstance(text, bytes):
            text = text.decode("utf-8", errors="replace")
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids


def grammar_tokenizer(tokenizer: Tokenizer, size: int, end: int) -> llguidance.LLTokenizer:
    """The tokenizer of the grammars. `end` is the token that ends a text."""
    tokens = _token_bytes(tokenizer, size)
    if tokens is None:
        return llguidance.LLTokenizer(tokenizer.to_str(), n_vocab=size, eos_token=end)
    wrapper = llguidance.TokenizerWrapper(_Bytes(tokenizer, tokens, end))
    return llguidance.LLTokenizer(wrapper, eos_token=end)


def _token_bytes(tokenizer: Tokenizer, size: int) -> list[bytes] | None:
    # The bytes of the token of each row, b"" without one; None if the tokenizer is not byte-level.
    added = {number: token.content for number, token in tokenizer.get_added_tokens_decoder().items()}
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
    # The letter of each byte in byte-level BPE: its own, or one from U+0100 on if that is not printable.
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(hidden)) for byte in range(256)]
