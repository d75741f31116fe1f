"""The language model on PyTorch. It generates many texts at once."""

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

from acestep.planner.backends.decoder import Decoder
from acestep.planner.backends.grammars import Allowed, Grammars
from acestep.planner.backends.head import Head, LogitsRequest
from acestep.planner.backends.sampling import next_tokens
from acestep.planner.backends.sequence import TextSequence, prompts_of
from acestep.planner.language_model import Generation, Message, StepOutput, Text, Vocabulary
from acestep.planner.loading import LanguageModelParts, load_language_model
from acestep.weights.safetensors import LoadTarget

# To understand 600 s of song are 3,000 codes to read, and up to 3,256 tokens of block and lyrics to generate.
DEFAULT_LENGTH = 6656
DEFAULT_SEQUENCES = 4
_WAIT_SECONDS = 0.1  # for the device, in one step; cancelled texts are dropped between steps


class DeviceAccess(Protocol):
    """Access to a device that several models use in turn."""

    def acquire(self, seconds: float) -> bool:
        """Wait up to so many seconds; True: the device is ours until `release`, and the weights are there."""
        ...

    @property
    def is_awaited(self) -> bool:
        """Whether another model waits for the device."""
        ...

    def release(self) -> None: ...


@dataclass(slots=True, eq=False)
class _Row:
    number: int  # in the cache
    prompt: tuple[int, ...]
    feed: list[int]  # the tokens of the next step
    position: int  # of the first of them


@dataclass(slots=True, eq=False)
class _Entry:
    sequence: TextSequence
    prompts: list[tuple[int, ...]]  # two with guidance
    rows: list[_Row] = field(default_factory=list)  # one a prompt; none while it is queued


class TorchLanguageModel:
    """Runs `sequences` generations with guidance at once, or twice as many without; more are queued."""

    # The cache has 4 * sequences * length * layers * key-value heads * head size numbers: for the published
    # 1.7B in bfloat16 1.5 GB for a sequence of 6,656 tokens, prompt included.

    def __init__(
        self,
        parts: LanguageModelParts,
        sequences: int = DEFAULT_SEQUENCES,
        length: int = DEFAULT_LENGTH,
        device: torch.device | None = None,
    ) -> None:
        """`device`: where it runs, if the weights are elsewhere; call `place_modules` then."""
        self._name = parts.name
        self._chat = parts.chat
        self._vocabulary = parts.vocabulary
        self._detokenize = partial(self._chat.text, end_of_turn=parts.vocabulary.end_of_turn)
        length = min(length, parts.model.config.max_position_embeddings)
        self._decoder = Decoder(parts.model, rows=2 * sequences, length=length, device=device)
        self._head = Head(parts.head)
        self._device = device or parts.head.device
        self._grammars = Grammars(parts.chat.tokenizer, parts.vocabulary, self._head.size)
        self._ids = itertools.count()
        self._waiting: deque[_Entry] = deque()
        self._running: list[_Entry] = []
        self._rows: list[_Row] = []  # by number, without gaps
        self._max_sequences = sequences
        self._access: DeviceAccess | None = None
        self._admitted = 0  # texts since the device is ours

    @property
    def movable(self) -> tuple[Decoder, Head]:
        """The modules whose weights may be offloaded while there is nothing to generate."""
        return self._decoder, self._head

    def place_modules(self, access: DeviceAccess) -> None:
        self._access = access

    @property
    def name(self) -> str:
        return self._name

    @property
    def vocabulary(self) -> Vocabulary:
        return self._vocabulary

    def render(self, messages: Sequence[Message], open_turn: Text = "") -> tuple[int, ...]:
        return self._chat.tokens(messages, open_turn)

    def spells(self, word: str) -> bool:
        return self._chat.spells(word)

    def add(self, generation: Generation) -> int:
        prompts = prompts_of(generation, self._decoder.length, self._name)
        sequence = TextSequence.begin(next(self._ids), generation, self._grammars)
        self._waiting.append(_Entry(sequence, prompts))
        return sequence.id

    def abort(self, sequence_id: int) -> None:
        self._waiting = deque(entry for entry in self._waiting if entry.sequence.id != sequence_id)
        try:
            for entry in self._running:
                if entry.sequence.id == sequence_id:
                    self._release(entry)
                    break
        finally:
            if not self._running and not self._waiting:
                self._give_device_back()

    def close(self) -> None:
        pass  # the memory is freed with the last reference

    def step(self) -> Sequence[StepOutput]:
        """As in the protocol. Empty too while another model has the device."""
        if not self._running and not self._waiting:
            return []
        if self._access is not None and not self._access.acquire(_WAIT_SECONDS):
            return []
        self._admit()
        outputs = self._decode() if self._running else []
        if not self._running:
            self._give_device_back()
        return outputs

    def _give_device_back(self) -> None:
        self._admitted = 0
        if self._access is not None:
            self._access.release()

    @torch.inference_mode()
    def _decode(self) -> Sequence[StepOutput]:
        hidden = self._decoder.decode([row.feed for row in self._rows], [row.position for row in self._rows])
        # On CUDA the layers run while the CPU computes the masks.
        allowed = self._grammars.allowed([entry.sequence.constraint for entry in self._running])
        tokens = self._sample(hidden, allowed)
        outputs = [self._append(entry, token) for entry, token in zip(self._running, tokens, strict=True)]
        ended = {output.sequence_id for output in outputs if output.ended}
        for entry in [entry for entry in self._running if entry.sequence.id in ended]:
            self._release(entry)
        return outputs

    def _admit(self) -> None:
        # One text a step at most: its prefill keeps the others waiting.
        if not self._waiting or len(self._rows) + len(self._waiting[0].prompts) > self._decoder.rows:
            return
        if self._admitted >= self._max_sequences and self._access is not None and self._access.is_awaited:
            return  # or a stream of texts would keep the device for ever
        self._admitted += 1
        entry = self._waiting.popleft()
        self._running.append(entry)  # before memory may run out: `abort` frees its rows then
        for prompt in entry.prompts:
            # The last token is fed by the first step, like every later one.
            row = _Row(len(self._rows), prompt, feed=[prompt[-1]], position=len(prompt) - 1)
            same = next((other for other in self._rows if other.prompt == prompt), None)
            if same:  # a song of the same request
                self._decoder.copy(same.number, row.number, row.position)
            else:
                self._decoder.prefill(row.number, prompt[:-1])
            self._rows.append(row)
            entry.rows.append(row)
        entry.sequence.mark_prompt(self._head.size, self._device)

    def _sample(self, hidden: Tensor, allowed: Sequence[Allowed | None]) -> list[int | None]:
        def logits_of(asked: Sequence[tuple[int, Allowed]]) -> Sequence[Tensor]:
            states = ([row.number for row in self._running[number].rows] for number, _ in asked)
            requests = [LogitsRequest(each, rows.rows) for each, (_, rows) in zip(states, asked, strict=True)]
            return self._head.logits(hidden, requests)

        sequences = [entry.sequence for entry in self._running]
        return next_tokens(sequences, allowed, logits_of, lambda each: self._head.index(each.rows))

    def _append(self, entry: _Entry, token: int | None) -> StepOutput:
        # Append the token, and the tokens that must follow it if the decoder takes several at once.
        output = entry.sequence.append(token, self._detokenize)
        fed = [] if token is None else [token]
        if self._decoder.takes_many and not output.ended:
            for forced in entry.sequence.forced():
                output = entry.sequence.append(forced, self._detokenize)
                fed.append(forced)
                if output.ended:
                    break
        for row in entry.rows:
            row.position += len(row.feed)
            row.feed = fed
        return output

    def _release(self, entry: _Entry) -> None:
        # Free the rows of a text; the last rows move into the gaps.
        self._running.remove(entry)
        for row in reversed(entry.rows):
            last = self._rows.pop()
            if last is not row:
                self._decoder.copy(last.number, row.number, last.position)
                last.number = row.number
                self._rows[row.number] = last


def load_torch_language_model(
    folder: Path,
    target: LoadTarget,
    sequences: int = DEFAULT_SEQUENCES,
    length: int = DEFAULT_LENGTH,
    device: torch.device | None = None,
) -> TorchLanguageModel:
    """A published folder as a model that runs on `device`; None: on the target's. Raises CheckpointError."""
    return TorchLanguageModel(load_language_model(folder, target), sequences, length, device)
