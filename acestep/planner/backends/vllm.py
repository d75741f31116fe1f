"""The language model on vLLM: its engine computes the logits, `pairing` chooses the tokens within it.

So its rows come in pairs that are prefilled in the same step, and a logits processor leaves each of them
the one token that was chosen.
"""

from __future__ import annotations

import gc
import itertools
import logging
import os
import re
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3Config

from acestep.device.oom import is_out_of_memory
from acestep.errors import ModelUnavailableError
from acestep.planner.backends.cfg_rows import CfgRows, Changes, Place
from acestep.planner.backends.chat import Chat
from acestep.planner.backends.grammars import Grammars
from acestep.planner.backends.pt import DEFAULT_LENGTH
from acestep.planner.backends.sequence import TextSequence, prompts_of
from acestep.planner.language_model import Generation, Message, StepOutput, Text, TokenSampling, Vocabulary
from acestep.planner.loading import read_facts

_log = logging.getLogger(__name__)

_PLACE = "acestep"  # our key in the extra arguments of vLLM's requests; under it, ticket and part
_ARCHITECTURE = "AceStepPlanner"
_ENVIRONMENT = {
    # In a process of its own, the two requests of a pair would arrive one after the other, and the first
    # might be a step ahead; here nothing happens between two calls of `step`.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_USE_V2_MODEL_RUNNER": "0",  # it has logits processors of another kind
    "VLLM_NO_USAGE_STATS": "1",  # or it tells its makers of this machine
}
_CACHE_SPACE = "VLLM_CPU_KVCACHE_SPACE"
_REMEDY = "Set ACESTEP_LM_BACKEND=pt to run the planner on PyTorch."
# What vLLM and torch are known to raise; AttributeError where vLLM's compiled part does not fit torch.
_RAISED = (ImportError, OSError, RuntimeError, ValueError, AttributeError, AssertionError)
# vLLM looks at what is free before it takes it, and words want of it in many ways. It is told nothing that it
# could find wrong with memory otherwise; its settings (`gpu_memory_utilization`) are no words of their own.
_SCARCITY = re.compile(r"\bmemory\b", re.IGNORECASE)
_SPARE = 2 * 256  # tokens of room for each row, as the cache is handed out in blocks of up to 256


@dataclass(frozen=True, slots=True, eq=False)
class _Room:
    """What the engine makes room for: `rows` of up to `length` tokens each, prompt and answer together."""

    rows: int
    length: int


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    writing: TextSequence
    prompts: list[tuple[int, ...]]


class VllmLanguageModel:
    """The `LanguageModel` of a folder, run by vLLM; it writes as `TorchLanguageModel` does, up to rounding.

    `slots` generations with guidance run at once, or twice as many without, each of up to `length` tokens
    with its prompt; more wait.
    """

    def __init__(
        self, folder: Path, device: torch.device, sequences: int = 4, length: int = DEFAULT_LENGTH
    ) -> None:
        self._name = folder.name
        tokenizer, self._vocabulary, config = read_facts(folder)
        self._chat = Chat(tokenizer)
        self._end: int = tokenizer.convert_tokens_to_ids(self._vocabulary.end_of_turn)
        self._size: int = config.vocab_size
        self._device = device
        self._room = _Room(2 * sequences, min(length, config.max_position_embeddings))
        self._grammars = Grammars(tokenizer, self._vocabulary, self._size)
        # A method, so that this object and `pairing` hold each other: an engine that goes takes along what
        # all engines of the process share, and must not do so the moment that one of two is let go. Who wants
        # it gone at once says `close`.
        self._cfg_rows = CfgRows(self._grammars, self._spell)
        self._engine = _start(folder, config, self._room, self._cfg_rows)
        self._tickets = itertools.count()
        self._waiting: deque[_Waiting] = deque()
        self._running: dict[int, list[str]] = {}  # by ticket, what vLLM calls its rows
        try:
            self._warm_up()
        except BaseException:
            self.close()
            raise

    @property
    def name(self) -> str:
        return self._name

    @property
    def vocabulary(self) -> Vocabulary:
        return self._vocabulary

    def render(self, messages: Sequence[Message], open_turn: Text = "") -> tuple[int, ...]:
        return self._chat.tokens(messages, open_turn)

    def add(self, generation: Generation) -> int:
        prompts = prompts_of(generation, self._room.length, self._name)
        writing = TextSequence.begin(next(self._tickets), generation, self._grammars)
        self._waiting.append(_Waiting(writing, prompts))
        return writing.ticket

    def abort(self, ticket: int) -> None:
        self._waiting = deque(each for each in self._waiting if each.writing.ticket != ticket)
        if rows := self._running.pop(ticket, None):
            self._engine.abort_request(rows)
            self._cfg_rows.leave(ticket)

    def step(self) -> Sequence[StepOutput]:
        self._admit()
        if not self._running:
            return []
        self._engine.step()
        advances = self._cfg_rows.advances()
        for advance in advances:
            if advance.ended:
                self.abort(advance.ticket)
        return advances

    def close(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.engine_core.shutdown()

    def _warm_up(self) -> None:
        """Write a text of one token: whatever vLLM puts off until then happens now, or fails now."""
        prompt = (self._end,)
        grammar = f"start: {self._vocabulary.end_of_turn}"
        self.add(Generation(prompt, grammar, TokenSampling(), seed=0, max_tokens=1, null_prompt=prompt))
        (advance,) = self.step()
        if advance.error:
            raise RuntimeError(advance.error)

    def _admit(self) -> None:
        taken = sum(map(len, self._running.values()))
        if not self._waiting or taken + len(self._waiting[0].prompts) > self._room.rows:
            return
        waiting = self._waiting.popleft()
        writing = waiting.writing
        writing.remember(self._size, self._device)
        self._cfg_rows.enter(writing, len(waiting.prompts))
        self._running[writing.ticket] = rows = []
        for part, prompt in enumerate(waiting.prompts):
            rows.append(f"{writing.ticket}-{part}")
            params = _greedy(writing.generation.max_tokens, {_PLACE: [writing.ticket, part]})
            self._engine.add_request(rows[-1], {"prompt_token_ids": list(prompt)}, params)

    def _spell(self, tokens: Sequence[int]) -> str:
        return self._chat.text(tokens, self._vocabulary.end_of_turn)


def why_not(device: torch.device) -> str:
    """Why vLLM cannot run a language model on `device` in this installation; empty if it can.

    Raises ModelUnavailableError where it is installed but broken.
    """
    if find_spec("vllm") is None:
        return "vLLM is not installed (`uv sync --extra vllm` installs it)"
    if device.index:
        return f"vLLM runs on the first GPU alone, not on {device}"
    _prepare_environment()
    try:
        from vllm.platforms import current_platform
    except (ImportError, OSError, RuntimeError) as error:
        raise ModelUnavailableError(
            f"vLLM is installed but cannot be imported: {error}. {_REMEDY}"
        ) from error
    if current_platform.device_type != device.type:
        return f"this vLLM is made for {current_platform.device_type or 'other devices'}, not for {device}"
    return ""


def load_vllm_language_model(
    folder: Path, device: torch.device, sequences: int = 4, length: int = DEFAULT_LENGTH
) -> VllmLanguageModel:
    """A published LM folder, ready to write; where `why_not(device)` is empty.

    Raises CheckpointError where a file does not fit, ModelUnavailableError where vLLM does not start, and as
    `is_out_of_memory` knows it where it has no room.
    """
    try:
        return VllmLanguageModel(folder, device, sequences, length)
    except _RAISED as error:
        if is_out_of_memory(error):
            raise
        if isinstance(error, ValueError) and _SCARCITY.search(str(error)):
            raise MemoryError(str(error)) from None
        reason = str(error) or type(error).__name__
        raise ModelUnavailableError(f"vLLM could not start {folder.name}: {reason}. {_REMEDY}") from error


def _prepare_environment() -> None:
    """What vLLM reads of the environment, such that it does as it is told."""
    os.environ |= _ENVIRONMENT
    # It would go before the size that is asked for. In a cache that is too small, one of a pair is put off.
    if os.environ.pop(_CACHE_SPACE, ""):
        _log.warning("%s has no effect: the planner's cache is as large as its texts need", _CACHE_SPACE)


def _start(folder: Path, config: Qwen3Config, room: _Room, cfg_rows: CfgRows) -> Any:
    """A `vllm.LLMEngine` in this process, on this thread, that asks `pairing` for every token."""
    _prepare_environment()
    from vllm import EngineArgs, LLMEngine, ModelRegistry
    from vllm.platforms import current_platform
    from vllm.v1.executor.uniproc_executor import UniProcExecutor

    on_cpu = current_platform.is_cpu()
    dtype = torch.float32 if on_cpu else torch.bfloat16
    ModelRegistry.register_model(_ARCHITECTURE, _architecture())
    arguments = EngineArgs(
        model=str(folder),
        hf_overrides={"architectures": [_ARCHITECTURE]},
        skip_tokenizer_init=True,
        generation_config="vllm",
        dtype=str(dtype).removeprefix("torch."),
        seed=0,
        max_model_len=room.length,
        max_num_seqs=room.rows,
        # Both prompts of a pair are read in one step, whole: so they are never apart.
        max_num_batched_tokens=2 * room.length + room.rows - 2,
        enable_prefix_caching=False,
        async_scheduling=False,
        kv_cache_memory_bytes=_cache_bytes(config, room, dtype),
        gpu_memory_utilization=0.01,  # only checked, as the cache has its size from us
        enforce_eager=on_cpu,  # compiling needs a compiler
        distributed_executor_backend=UniProcExecutor,  # where "uni" is asked for, CPUs get a process
        logits_processors=[_processor(cfg_rows)],
        disable_log_stats=True,
    )
    try:
        return LLMEngine.from_engine_args(arguments)
    finally:
        # vLLM exempts whatever there is from the garbage collection, as if the process were its own. The
        # rings in which this engine hangs would never be found, nor anything else that the server lets go.
        gc.unfreeze()


def _cache_bytes(config: Qwen3Config, room: _Room, dtype: torch.dtype) -> int:
    """Keys and values of all rows at their longest, so that vLLM never puts one of a pair off."""
    token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * dtype.itemsize
    return int(token * (room.rows * (room.length + _SPARE) + _SPARE))


def _greedy(max_tokens: int, extra: dict[str, Any]) -> Any:
    """How vLLM samples: the one token that is left to it."""
    from vllm import SamplingParams

    return SamplingParams(
        temperature=0, max_tokens=max_tokens, ignore_eos=True, detokenize=False, extra_args=extra
    )


def _processor(cfg_rows: CfgRows) -> type:
    """The logits processor that hands vLLM's batch to `pairing`; vLLM makes the instance itself."""
    from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

    class Chooser(LogitsProcessor):  # type: ignore[misc]
        def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
            pass

        def is_argmax_invariant(self) -> bool:
            return False

        def update_state(self, batch_update: BatchUpdate | None) -> None:
            if batch_update is None:
                return
            added = [
                (row, Place(params.extra_args[_PLACE][0], params.extra_args[_PLACE][1], written))
                for row, params, _, written in batch_update.added
            ]
            moved = [(a, b, way is MoveDirectionality.SWAP) for a, b, way in batch_update.moved]
            cfg_rows.update(Changes(batch_update.removed, added, moved))

        def apply(self, logits: torch.Tensor) -> torch.Tensor:
            return cfg_rows.choose(logits)

    return Chooser


def _architecture() -> type:
    """Qwen3 as vLLM has it, which also reads what was saved without the head: names without a prefix."""
    from vllm.model_executor.models.qwen3 import Qwen3ForCausalLM

    class AceStepPlanner(Qwen3ForCausalLM):  # type: ignore[misc]
        def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
            tied = self.config.tie_word_embeddings
            named = (
                (name if name.startswith(("model.", "lm_head.")) else f"model.{name}", weight)
                for name, weight in weights
            )
            loaded: set[str] = super().load_weights(
                each
                for each in named
                if not (tied and each[0] == "lm_head.weight")  # stored once more
            )
            return loaded

    return AceStepPlanner
