"""From a conversation to token ids, such that nobody's words become special tokens; and from ids to text.

Every backend makes its prompts here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tokenizers import Encoding, Tokenizer
from transformers import PreTrainedTokenizerFast

from acestep.planner.language_model import Message, SpecialToken, Text, spelled

# Two planes of Unicode are for private use: more characters than a prompt can hold.
_PRIVATE = range(0xF0000, 0x10FFFE)


class Chat:
    """Conversations for one tokenizer.

    A conversation in which no string spells a special token goes through chat template and tokenizer as it
    is. Otherwise such strings get a mark between their letters, that neither knows, and the stretches that
    hold marks are tokenised once more without them, by a tokenizer without special tokens.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self._whole: Tokenizer = tokenizer.backend_tokenizer
        self._special = frozenset(tokenizer.added_tokens_decoder)
        self._plain = Tokenizer(self._whole.model)
        self._plain.normalizer = self._whole.normalizer
        self._plain.pre_tokenizer = self._whole.pre_tokenizer

    def tokens(self, messages: Sequence[Message], open_turn: Text = "") -> tuple[int, ...]:
        mark = _unused((*(message.content for message in messages), open_turn))
        turns = [
            {"role": message.role, "content": self._marked(message.content, mark)} for message in messages
        ]
        prompt = self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        prompt = f"{prompt}{self._marked(open_turn, mark)}"
        encoding = self._encode(prompt)
        return tuple(self._unmarked(prompt, encoding, mark) if mark in prompt else encoding.ids)

    def text(self, tokens: Sequence[int], end_of_turn: str) -> str:
        """Tokens as text, special ones spelled out; an `end_of_turn` that closes them is left out."""
        end = self._tokenizer.convert_tokens_to_ids(end_of_turn)
        written = tokens[:-1] if tokens and tokens[-1] == end else tokens
        return str(
            self._tokenizer.decode(written, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        )

    def _encode(self, text: str) -> Encoding:
        return self._whole.encode(text, add_special_tokens=False)

    def _marked(self, text: Text, mark: str) -> str:
        """The text, with marks in whatever its strings would smuggle in."""
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
        """The ids of a prompt with marks: of each stretch between special tokens, those without its marks."""
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


def _unused(texts: Sequence[Text]) -> str:
    """A character that is in none of the texts."""
    used = set().union(*map(spelled, texts))
    return next(letter for letter in map(chr, _PRIVATE) if letter not in used)
