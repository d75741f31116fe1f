"""The language model on PyTorch: many texts at once, each with its own grammar, guidance and chance."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from acestep.planner.backends.chat import Chat
from acestep.planner.backends.decoder import Decoder
from acestep.planner.backends.grammars import Allowed, Grammars
from acestep.planner.backends.head import Head, Question
from acestep.planner.backends.sampling import next_tokens
from acestep.planner.backends.sequence import TextSequence, prompts_of
from acestep.planner.language_model import Generation, Message, StepOutput, Text, Vocabulary
from acestep.planner.loading import LanguageModelParts, load_language_model
from acestep.weights.safetensors import LoadTarget

# To understand 600 s of song are 3,000 codes to read, and up to 3,256 tokens of block and lyrics to write.
DEFAULT_LENGTH = 6656
DEFAULT_SEQUENCES = 4
_PATIENCE = 0.1  # seconds of a step that waits for the device: so often is asked who was cancelled


class Lodging(Protocol):
    """Where the weights and the cache are while there is nothing to write, and whose the device is."""

    def come(self, seconds: float) -> bool:
        """Whether they are on the device, which is nobody else's until `go`; waits so long at most."""
        ...

    @property
    def is_awaited(self) -> bool:
        """Whether somebody else waits for the device."""
        ...

    def go(self) -> None:
        """There is nothing to write for the moment."""
        ...


@dataclass(slots=True, eq=False)
class _Row:
    """A row of the cache: its prompt, and the tokens that are fed to it next, from `position` on."""

    place: int
    prompt: tuple[int, ...]
    feed: list[int]
    position: int


@dataclass(slots=True, eq=False)
class _Text:
    """A generation on its way. Its first row reads the prompt, its second, with guidance, the null prompt."""

    writing: TextSequence
    prompts: list[tuple[int, ...]]
    rows: list[_Row] = field(default_factory=list)


class TorchLanguageModel:
    """The `LanguageModel` of a folder in memory.

    `slots` generations with guidance run at once (or twice as many without), each of up to `length` tokens
    with its prompt; more wait. The cache takes, in bytes, 4 * slots * length * layers * key-value heads *
    head size * bytes a number: for the published 1.7B in bfloat16 1.5 GB a slot of 6,656.
    """

    def __init__(
        self,
        parts: LanguageModelParts,
        sequences: int = DEFAULT_SEQUENCES,
        length: int = DEFAULT_LENGTH,
        device: torch.device | None = None,
    ) -> None:
        """`device`: where it writes, if it is not there yet; then it must `lodge` somewhere."""
        self._name = parts.name
        self._chat = Chat(parts.tokenizer)
        self._vocabulary = parts.vocabulary
        self._spell = partial(self._chat.text, end_of_turn=parts.vocabulary.end_of_turn)
        length = min(length, parts.model.config.max_position_embeddings)
        self._decoder = Decoder(parts.model, rows=2 * sequences, length=length, device=device)
        self._head = Head(parts.head)
        self._device = device or parts.head.device
        self._grammars = Grammars(parts.tokenizer, parts.vocabulary, self._head.size)
        self._tickets = itertools.count()
        self._waiting: deque[_Text] = deque()
        self._running: list[_Text] = []
        self._rows: list[_Row] = []  # by place, without gaps
        self._slots = sequences
        self._lodging: Lodging | None = None
        self._joined = 0  # texts that began since the device is ours

    @property
    def movable(self) -> tuple[Decoder, Head]:
        """What has weights, which may be moved while there is nothing to write."""
        return self._decoder, self._head

    def place_modules(self, lodging: Lodging) -> None:
        """Be on the device by `lodging` alone from now on."""
        self._lodging = lodging

    @property
    def name(self) -> str:
        return self._name

    @property
    def vocabulary(self) -> Vocabulary:
        return self._vocabulary

    def render(self, messages: Sequence[Message], open_turn: Text = "") -> tuple[int, ...]:
        return self._chat.tokens(messages, open_turn)

    def add(self, generation: Generation) -> int:
        prompts = prompts_of(generation, self._decoder.length, self._name)
        writing = TextSequence.begin(next(self._tickets), generation, self._grammars)
        self._waiting.append(_Text(writing, prompts))
        return writing.ticket

    def abort(self, ticket: int) -> None:
        self._waiting = deque(text for text in self._waiting if text.writing.ticket != ticket)
        try:
            for text in self._running:
                if text.writing.ticket == ticket:
                    self._release(text)
                    break
        finally:
            if not self._running and not self._waiting:
                self._go()

    def close(self) -> None:
        """See `LanguageModel.close`: all of it goes with the last who holds it."""

    def step(self) -> Sequence[StepOutput]:
        """See `LanguageModel.step`. One waiting generation joins at most, lest the others wait long.

        While the device is somebody else's, nothing advances.
        """
        if not self._running and not self._waiting:
            return []
        if self._lodging is not None and not self._lodging.come(_PATIENCE):
            return []
        self._admit()
        advances = self._step() if self._running else []
        if not self._running:
            self._go()
        return advances

    def _go(self) -> None:
        self._joined = 0
        if self._lodging is not None:
            self._lodging.go()

    @torch.inference_mode()
    def _step(self) -> Sequence[StepOutput]:
        hidden = self._decoder.decode([row.feed for row in self._rows], [row.position for row in self._rows])
        # On CUDA the layers run while the masks are made.
        allowed = self._grammars.allowed([text.writing.constraint for text in self._running])
        chosen = self._choose(hidden, allowed)
        advances = [self._advance(text, token) for text, token in zip(self._running, chosen, strict=True)]
        ended = {advance.ticket for advance in advances if advance.ended}
        for text in [text for text in self._running if text.writing.ticket in ended]:
            self._release(text)
        return advances

    def _admit(self) -> None:
        if not self._waiting or len(self._rows) + len(self._waiting[0].prompts) > self._decoder.rows:
            return
        if self._joined >= self._slots and self._lodging is not None and self._lodging.is_awaited:
            return  # or whoever waits for the device might wait for ever
        self._joined += 1
        text = self._waiting.popleft()
        self._running.append(text)  # from now on, to abort it frees its rows: memory may run out here
        for prompt in text.prompts:
            # The last token is fed by the first step, like every later one.
            row = _Row(len(self._rows), prompt, feed=[prompt[-1]], position=len(prompt) - 1)
            twin = next((other for other in self._rows if other.prompt == prompt), None)
            if twin:  # songs of one request
                self._decoder.copy(twin.place, row.place, row.position)
            else:
                self._decoder.prefill(row.place, prompt[:-1])
            self._rows.append(row)
            text.rows.append(row)
        text.writing.remember(self._head.size, self._device)

    def _choose(self, hidden: Tensor, allowed: Sequence[Allowed | None]) -> list[int | None]:
        """The next token of each running text; None where its grammar allows none."""

        def logits_of(asked: Sequence[tuple[int, Allowed]]) -> Sequence[Tensor]:
            rows = ([row.place for row in self._running[place].rows] for place, _ in asked)
            questions = [Question(places, each.rows) for places, (_, each) in zip(rows, asked, strict=True)]
            return self._head.logits(hidden, questions)

        writings = [text.writing for text in self._running]
        return next_tokens(writings, allowed, logits_of, lambda each: self._head.index(each.rows))

    def _advance(self, text: _Text, token: int | None) -> StepOutput:
        """Take the token, and where several are cheap at once those that must follow it."""
        advance = text.writing.take(token, self._spell)
        fed = [] if token is None else [token]
        if self._decoder.takes_many and not advance.ended:
            for forced in text.writing.forced():
                advance = text.writing.take(forced, self._spell)
                fed.append(forced)
                if advance.ended:
                    break
        for row in text.rows:
            row.position += len(row.feed)
            row.feed = fed
        return advance

    def _release(self, text: _Text) -> None:
        """Free a text's rows; the last rows move into the gaps."""
        self._running.remove(text)
        for row in reversed(text.rows):
            last = self._rows.pop()
            if last is not row:
                self._decoder.copy(last.place, row.place, last.position)
                last.place = row.place
                self._rows[row.place] = last


def load_torch_language_model(
    folder: Path,
    place: LoadTarget,
    sequences: int = DEFAULT_SEQUENCES,
    length: int = DEFAULT_LENGTH,
    device: torch.device | None = None,
) -> TorchLanguageModel:
    """A published LM folder, ready to write; on `device`, once it lodges there, if that is not at `place`.

    Raises CheckpointError where something does not fit.
    """
    return TorchLanguageModel(load_language_model(folder, place), sequences, length, device)
