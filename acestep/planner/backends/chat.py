"""Conversations to token ids, and token ids to text. Words of a user never become special tokens."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Encoding, Tokenizer

from acestep.catalog.checkpoints import read_json
from acestep.errors import CheckpointError, PlannerError
from acestep.networks.qwen3 import load_tokenizer
from acestep.planner.language_model import Message, SpecialToken, Text, spelled

# Two planes of Unicode are for private use: more characters than a prompt can hold.
_PRIVATE = range(0xF0000, 0x10FFFE)


class Chat:
    # If a string spells a special token, a mark that the tokenizer does not know is put between its letters.
    # Stretches with marks are tokenized again, without the marks, by a tokenizer without special tokens.

    def __init__(self, tokenizer: Tokenizer, template: str, names: Mapping[str, str] | None = None) -> None:
        """`names` are the special tokens that the template may name, such as `eos_token`."""
        self.tokenizer = tokenizer
        self._render = _renderer(template, names or {})
        self._special = frozenset(tokenizer.get_added_tokens_decoder())
        self._plain = Tokenizer(tokenizer.model)
        self._plain.normalizer = tokenizer.normalizer
        self._plain.pre_tokenizer = tokenizer.pre_tokenizer
        self._plain.decoder = tokenizer.decoder

    @classmethod
    def load(cls, folder: Path) -> Chat:
        """Raises CheckpointError if there is no tokenizer, or no chat template that can be read."""
        tokenizer = load_tokenizer(folder)
        alone, path = folder / "chat_template.jinja", folder / "tokenizer_config.json"
        config = read_json(path) if path.is_file() else {}
        template = alone.read_text(encoding="utf-8") if alone.is_file() else config.get("chat_template")
        if isinstance(template, list):  # several, by name
            template = {each.get("name"): each.get("template") for each in template}.get("default")
        if not template:
            raise CheckpointError(f"{folder}: neither {path.name} nor {alone.name} has a chat template")
        named = ((name, value) for name, value in config.items() if name.endswith("_token"))
        names = {name: value["content"] if isinstance(value, dict) else value for name, value in named}
        try:
            return cls(tokenizer, template, {name: text for name, text in names.items() if text})
        except jinja2.TemplateError as error:
            raise CheckpointError(f"{folder}: the chat template cannot be read ({error})") from error

    def tokens(self, messages: Sequence[Message], open_turn: Text = "") -> tuple[int, ...]:
        mark = _unused_letter((*(message.content for message in messages), open_turn))
        turns = [
            {"role": message.role, "content": self._marked(message.content, mark)} for message in messages
        ]
        prompt = self._render(turns) + self._marked(open_turn, mark)
        encoding = self._encode(prompt)
        return tuple(self._unmarked(prompt, encoding, mark) if mark in prompt else encoding.ids)

    def text(self, tokens: Sequence[int], end_of_turn: str) -> str:
        """Tokens as text, special tokens spelled out, without an `end_of_turn` at the end."""
        end = self.tokenizer.token_to_id(end_of_turn)
        written = tokens[:-1] if tokens and tokens[-1] == end else tokens
        return self.tokenizer.decode(written, skip_special_tokens=False)

    def spells(self, word: str) -> bool:
        normalizer = self._plain.normalizer
        kept: str = normalizer.normalize_str(word) if normalizer else word
        return bool(
            self._plain.decode(self._plain.encode(word).ids, skip_special_tokens=False).strip()
            == kept.strip()
        )

    def _encode(self, text: str) -> Encoding:
        return self.tokenizer.encode(text, add_special_tokens=False)

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


def _renderer(template: str, names: Mapping[str, str]) -> Callable[[Sequence[Mapping[str, str]]], str]:
    # The settings, functions and variables that transformers gives to chat templates.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.filters["tojson"] = partial(json.dumps, ensure_ascii=False)
    environment.globals["raise_exception"] = _refuse
    compiled = environment.from_string(template)

    def render(turns: Sequence[Mapping[str, str]]) -> str:
        try:
            return compiled.render(
                messages=turns, tools=None, documents=None, add_generation_prompt=True, **names
            )
        except jinja2.TemplateError as error:
            raise PlannerError(f"The chat template of the planner failed: {error}") from error

    return render


def _refuse(reason: str) -> NoReturn:
    raise jinja2.TemplateError(reason)


def _unused_letter(texts: Sequence[Text]) -> str:
    used = set().union(*map(spelled, texts))
    return next(letter for letter in map(chr, _PRIVATE) if letter not in used)
