"""A tokenizer as grammars see it: the bytes of every token.

Owns the way from a fast tokenizer to llguidance. llguidance can read tokenizer.json by itself, but takes more
than half a minute over the 65,535 audio codes of the published language models; given the bytes, half a
second.
"""

from __future__ import annotations

import llguidance
import llguidance.hf
from transformers import PreTrainedTokenizerFast


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
