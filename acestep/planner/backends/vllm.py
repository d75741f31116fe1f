"""The language model on vLLM. Its engine computes logits; a logits processor samples with `CfgRows`."""

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
from typing import TYPE_CHECKING

import torch

from acestep.device.oom import is_out_of_memory
from acestep.errors import ModelUnavailableError
from acestep.networks.qwen3 import Qwen3Config
from acestep.planner.backends.cfg_rows import BatchChanges, BatchRow, CfgRows
from acestep.planner.backends.grammars import Grammars
from acestep.planner.backends.pt import DEFAULT_LENGTH
from acestep.planner.backends.sequence import TextSequence, prompts_of
from acestep.planner.language_model import Generation, Message, StepOutput, Text, TokenSampling, Vocabulary
from acestep.planner.loading import read_facts
from acestep.weights.safetensors import LoadTarget

if TYPE_CHECKING:
    from vllm import LLMEngine, SamplingParams
    from vllm.config import VllmConfig

_log = logging.getLogger(__name__)

_ROW_KEY = "acestep"  # our key in the extra arguments of vLLM's requests: (sequence id, prompt)
_ARCHITECTURE = "AceStepPlanner"
_ENVIRONMENT = {
    # In a process of its own, the engine would get the two rows of a text one after the other, and the first
    # might be a step ahead. In this process nothing happens between two calls of `step`.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_USE_V2_MODEL_RUNNER": "0",  # it has other logits processors
    "VLLM_NO_USAGE_STATS": "1",  # no usage reports
}
_CACHE_SPACE = "VLLM_CPU_KVCACHE_SPACE"
_REMEDY = "Set ACESTEP_LM_BACKEND=pt to run the planner on PyTorch."
# What vLLM and torch are known to raise; AttributeError if vLLM's compiled part does not fit torch.
_RAISED = (ImportError, OSError, RuntimeError, ValueError, AttributeError, AssertionError)
# vLLM checks the free memory first, and has many messages for too little. None of our arguments can be wrong
# about memory otherwise; the names of its settings (`gpu_memory_utilization`) do not match as words.
_MEMORY = re.compile(r"\bmemory\b", re.IGNORECASE)
_SPARE = 2 * 256  # tokens for each row, as the cache is allocated in blocks of up to 256


@dataclass(frozen=True, slots=True, eq=False)
class _Capacity:
    rows: int
    length: int  # tokens of a row, prompt included
    dtype: torch.dtype


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    sequence: TextSequence
    prompts: list[tuple[int, ...]]


class VllmLanguageModel:
    """Generates the texts of `TorchLanguageModel`, up to rounding, with the same limits."""

    def __init__(
        self, folder: Path, target: LoadTarget, sequences: int = 4, length: int = DEFAULT_LENGTH
    ) -> None:
        self._name = folder.name
        self._chat, self._vocabulary, config = read_facts(folder)
        self._end = self._chat.tokenizer.get_vocab()[self._vocabulary.end_of_turn]
        self._size: int = config.vocab_size
        self._device = target.device
        self._capacity = _Capacity(2 * sequences, min(length, config.max_position_embeddings), target.dtype)
        self._grammars = Grammars(self._chat.tokenizer, self._vocabulary, self._size)
        # The bound method makes a reference cycle, on purpose: an engine that is freed ends what all engines
        # of the process share, which must not happen when one of two is dropped. `close` frees it at once.
        self._cfg_rows = CfgRows(self._grammars, self._detokenize)
        self._engine = _start(folder, config, self._capacity, self._cfg_rows)
        self._ids = itertools.count()
        self._waiting: deque[_Waiting] = deque()
        self._running: dict[int, list[str]] = {}  # by sequence id, vLLM's ids of its rows
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

    def spells(self, word: str) -> bool:
        return self._chat.spells(word)

    def add(self, generation: Generation) -> int:
        prompts = prompts_of(generation, self._capacity.length, self._name)
        sequence = TextSequence.begin(next(self._ids), generation, self._grammars)
        self._waiting.append(_Waiting(sequence, prompts))
        return sequence.id

    def abort(self, sequence_id: int) -> None:
        self._waiting = deque(each for each in self._waiting if each.sequence.id != sequence_id)
        if rows := self._running.pop(sequence_id, None):
            self._engine.abort_request(rows)
            self._cfg_rows.remove(sequence_id)

    def step(self) -> Sequence[StepOutput]:
        self._admit()
        if not self._running:
            return []
        self._engine.step()
        outputs = self._cfg_rows.take_outputs()
        for output in outputs:
            if output.ended:
                self.abort(output.sequence_id)
        return outputs

    def close(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.engine_core.shutdown()

    def _warm_up(self) -> None:
        # Generate one token: what vLLM does lazily happens, or fails, now.
        prompt = (self._end,)
        grammar = f"start: {self._vocabulary.end_of_turn}"
        self.add(Generation(prompt, grammar, TokenSampling(), seed=0, max_tokens=1, null_prompt=prompt))
        (output,) = self.step()
        if output.error:
            raise RuntimeError(output.error)

    def _admit(self) -> None:
        taken = sum(map(len, self._running.values()))
        if not self._waiting or taken + len(self._waiting[0].prompts) > self._capacity.rows:
            return
        waiting = self._waiting.popleft()
        sequence = waiting.sequence
        sequence.mark_prompt(self._size, self._device)
        self._cfg_rows.add(sequence, len(waiting.prompts))
        self._running[sequence.id] = rows = []
        for number, prompt in enumerate(waiting.prompts):
            rows.append(f"{sequence.id}-{number}")
            params = _greedy(sequence.generation.max_tokens, (sequence.id, number))
            self._engine.add_request(rows[-1], {"prompt_token_ids": list(prompt)}, params)

    def _detokenize(self, tokens: Sequence[int]) -> str:
        return self._chat.text(tokens, self._vocabulary.end_of_turn)


def why_not(device: torch.device) -> str:
    """Why vLLM cannot run on `device` here; "" if it can. Raises ModelUnavailableError if it is broken."""
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
    folder: Path, target: LoadTarget, sequences: int = 4, length: int = DEFAULT_LENGTH
) -> VllmLanguageModel:
    """Raises CheckpointError, ModelUnavailableError if vLLM does not start, and out of memory."""
    try:
        return VllmLanguageModel(folder, target, sequences, length)
    except _RAISED as error:
        if is_out_of_memory(error):
            raise
        if isinstance(error, ValueError) and _MEMORY.search(str(error)):
            raise MemoryError(str(error)) from None
        reason = str(error) or type(error).__name__
        raise ModelUnavailableError(f"vLLM could not start {folder.name}: {reason}. {_REMEDY}") from error


def _prepare_environment() -> None:
    os.environ |= _ENVIRONMENT
    # It would override the size that is asked for. In a smaller cache, one row of a text may be preempted.
    if os.environ.pop(_CACHE_SPACE, ""):
        _log.warning("%s has no effect: the planner's cache is as large as its texts need", _CACHE_SPACE)


def _start(folder: Path, config: Qwen3Config, capacity: _Capacity, cfg_rows: CfgRows) -> LLMEngine:
    _prepare_environment()
    from vllm import EngineArgs, LLMEngine, ModelRegistry
    from vllm.platforms import current_platform
    from vllm.v1.executor.uniproc_executor import UniProcExecutor

    on_cpu = current_platform.is_cpu()
    ModelRegistry.register_model(_ARCHITECTURE, _architecture())
    arguments = EngineArgs(
        model=str(folder),
        hf_overrides={"architectures": [_ARCHITECTURE]},
        skip_tokenizer_init=True,
        generation_config="vllm",
        dtype=str(capacity.dtype).removeprefix("torch."),
        seed=0,
        max_model_len=capacity.length,
        max_num_seqs=capacity.rows,
        # One step prefills both prompts of a text, so that its rows stay together.
        max_num_batched_tokens=2 * capacity.length + capacity.rows - 2,
        enable_prefix_caching=False,
        async_scheduling=False,
        kv_cache_memory_bytes=_cache_bytes(config, capacity),
        gpu_memory_utilization=0.01,  # only checked: the size of the cache is given
        enforce_eager=on_cpu,  # compiling needs a compiler
        distributed_executor_backend=UniProcExecutor,  # "uni" starts a process on CPUs
        logits_processors=[_processor(cfg_rows)],
        disable_log_stats=True,
    )
    try:
        return LLMEngine.from_engine_args(arguments)
    finally:
        # vLLM exempts all objects of the process from garbage collection. The cycles of this engine would
        # never be freed, nor those of any other model.
        gc.unfreeze()


def _cache_bytes(config: Qwen3Config, capacity: _Capacity) -> int:
    # Keys and values of all rows at their longest, so that vLLM never preempts one.
    token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    token *= capacity.dtype.itemsize
    return int(token * (capacity.rows * (capacity.length + _SPARE) + _SPARE))


def _greedy(max_tokens: int, row: tuple[int, int]) -> SamplingParams:
    from vllm import SamplingParams

    return SamplingParams(
        temperature=0, max_tokens=max_tokens, ignore_eos=True, detokenize=False, extra_args={_ROW_KEY: row}
    )


def _row(params: SamplingParams) -> tuple[int, int]:
    sequence_id, prompt = params.extra_args[_ROW_KEY]
    return sequence_id, prompt


def _processor(cfg_rows: CfgRows) -> type:
    # A class, as vLLM makes the instance.
    from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

    class CfgProcessor(LogitsProcessor):  # type: ignore[misc]
        def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
            pass

        def is_argmax_invariant(self) -> bool:
            return False

        def update_state(self, batch_update: BatchUpdate | None) -> None:
            if batch_update is None:
                return
            added = [(row, BatchRow(*_row(params), output)) for row, params, _, output in batch_update.added]
            moved = [(a, b, way is MoveDirectionality.SWAP) for a, b, way in batch_update.moved]
            cfg_rows.update(BatchChanges(batch_update.removed, added, moved))

        def apply(self, logits: torch.Tensor) -> torch.Tensor:
            return cfg_rows.sample(logits)

    return CfgProcessor


def _architecture() -> type:
    # vLLM's Qwen3, which also reads files without the head, whose names have no prefix.
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
