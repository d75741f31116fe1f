"""Conversations to token ids, and token ids to text. Words of a user never become special tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tokenizers import Encoding, Tokenizer
from transformers import PreTrainedTokenizerFast

from acestep.planner.language_model import Message, SpecialToken, Text, spelled

# Two planes of Unicode are for private use: more characters than a prompt can hold.
_PRIVATE = range(0xF0000, 0x10FFFE)


class Chat:
    # If a string spells a special token, a mark that the tokenizer does not know is put between its letters.
    # Stretches with marks are tokenized again, without the marks, by a tokenizer without special tokens.

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self._whole: Tokenizer = tokenizer.backend_tokenizer
        self._special = frozenset(tokenizer.added_tokens_decoder)
        self._plain = Tokenizer(self._whole.model)
        self._plain.normalizer = self._whole.normalizer
        self._plain.pre_tokenizer = self._whole.pre_tokenizer
        self._plain.decoder = self._whole.decoder

    def tokens(self, messages: Sequence[Message], open_turn: Text = "") -> tuple[int, ...]:
        mark = _unused_letter((*(message.content for message in messages), open_turn))
        turns = [
            {"role": message.role, "content": self._marked(message.content, mark)} for message in messages
        ]
        prompt = self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        prompt = f"{prompt}{self._marked(open_turn, mark)}"
        encoding = self._encode(prompt)
        return tuple(self._unmarked(prompt, encoding, mark) if mark in prompt else encoding.ids)

    def text(self, tokens: Sequence[int], end_of_turn: str) -> str:
        """Tokens as text, special tokens spelled out, without an `end_of_turn` at the end."""
        end = self._tokenizer.convert_tokens_to_ids(end_of_turn)
        written = tokens[:-1] if tokens and tokens[-1] == end else tokens
        return str(
            self._tokenizer.decode(written, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        )

    def spells(self, word: str) -> bool:
        normalizer = self._plain.normalizer
        kept: str = normalizer.normalize_str(word) if normalizer else word
        return bool(
            self._plain.decode(self._plain.encode(word).ids, skip_special_tokens=False).strip()
            == kept.strip()
        )

    def _encode(self, text: str) -> Encoding:
        return self._whole.encode(text, add_special_tokens=False)

    def _marked(self, text: Text, mark: str) -> str:
        parts = (text,) if isinstance(text, str) else text
        return "".join(
            part.spelling if isinstance(part, SpecialToken) else self._marked_words(part, mark)
            for part in parts
        )

    def _marked_words(self, words: str, mark: str) -> str:
        encoding = self._encode(words)
        pieces, done = [], 0
        for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if token in self._special:
                pieces += [words[done:start], mark.join(words[start:end])]
                done = end
        return "".join((*pieces, words[done:]))

    def _unmarked(self, prompt: str, encoding: Encoding, mark: str) -> Iterable[int]:
        # The ids of a prompt without its marks, one stretch between special tokens after the other.
        stretch: list[int] = []
        done = 0
        end_of_prompt = (None, (len(prompt), len(prompt)))
        for token, (start, end) in (*zip(encoding.ids, encoding.offsets, strict=True), end_of_prompt):
            if token is not None and token not in self._special:
                stretch.append(token)
                continue
            words = prompt[done:start]
            yield from self._plain.encode(words.replace(mark, "")).ids if mark in words else stretch
            if token is not None:
                yield token
            stretch, done = [], end


def _unused_letter(texts: Sequence[Text]) -> str:
    used = set().union(*map(spelled, texts))
    return next(letter for letter in map(chr, _PRIVATE) if letter not in used)
