"""The layers of a Qwen3 over a key-value cache of many texts."""

from __future__ import annotations

import math
import mmap
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from acestep.networks.qwen3 import Qwen3, Qwen3Config, Qwen3Layer
from acestep.planner.backends.matrices import Matrix, Workspace, join

# The CPU's libraries round a matrix product of fewer rows than this differently. With at least so many, on
# one thread, a row's result does not depend on the number of rows (measured, and held by a test; not on
# Intel's CPUs without AVX-512, see decision 0010): so a text is the same alone and in a batch.
EVEN_ROWS = 4
# Attention reads a multiple of so many positions, for the same reason; on CUDA each multiple has a graph.
_CPU_BLOCK, _CUDA_BLOCK = 32, 1024


class _Norm:
    # RMSNorm over the last dimension of `weight` `[..., size]`.
    def __init__(self, weight: Tensor, eps: float) -> None:
        self._eps = eps
        self._size = weight.shape[-1:]
        # On a CPU, torch's own takes more than twice as many operations.
        self._by_hand = weight.device.type == "cpu" and weight.dtype == torch.float32
        self._weight = weight * self._size[0] ** 0.5 if self._by_hand else weight
        self._least = torch.tensor((self._size[0] * eps) ** 0.5)

    def __call__(self, hidden: Tensor) -> Tensor:
        if self._by_hand:  # x / sqrt(|x|^2 + size * eps); the weight includes the square root of size
            length = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True).hypot_(self._least)
            found: Tensor = (hidden / length).mul_(self._weight)
            return found
        if self._weight.dim() == 1:
            return functional.rms_norm(hidden, self._size, self._weight, self._eps)
        return functional.rms_norm(hidden, self._size, None, self._eps) * self._weight

    @property
    def weight(self) -> Tensor:
        return self._weight


@dataclass(frozen=True, slots=True, eq=False)
class _Layer:
    # The weights of one layer. Those with the same input are joined: fewer, larger products.
    norm_in: _Norm
    norm_out: _Norm
    qkv: Matrix
    qk_norm: _Norm  # [heads + kv_heads, head_dim]
    out: Matrix
    gate_up: Matrix
    down: Matrix

    def weights(self) -> Iterator[Tensor]:
        yield from (norm.weight for norm in (self.norm_in, self.norm_out, self.qk_norm))
        for matrix in (self.qkv, self.out, self.gate_up, self.down):
            yield from matrix.tensors()


@dataclass(frozen=True, slots=True, eq=False)
class _Step:
    # The order of the tokens: the last ones of rows 0 to count - 1, then for each (row, number) of `earlier`
    # the tokens before its last, then padding.
    ids: Tensor  # [n], as the next two
    positions: Tensor
    rows: Tensor
    context: int  # positions that attention reads
    count: int
    earlier: Sequence[tuple[int, int]] = ()


class Decoder:
    """Not thread-safe. It shares its memory with the modules of `model`, which stay usable."""

    def __init__(self, model: Qwen3, rows: int, length: int, device: torch.device | None = None) -> None:
        """`device`: where it runs, if the weights are elsewhere; `allocate` makes the cache then."""
        config = model.config
        self.rows = rows
        self.length = length
        self._heads: int = config.num_attention_heads
        self._kv_heads: int = config.num_key_value_heads
        self._head_dim: int = config.head_dim
        self._embedding: Tensor = model.embed_tokens.weight
        self._norm = _Norm(model.norm.weight, config.rms_norm_eps)
        self._device = device or self._embedding.device
        self._workspace = Workspace(self._device, self._embedding.dtype)
        self._layers = [_join(cast("Qwen3Layer", each), config, self._workspace) for each in model.layers]
        self._block = _CUDA_BLOCK if self._device.type == "cuda" else _CPU_BLOCK
        blocks = -(-length // self._block)
        # An odd number: rows whose addresses are a power of two apart share lines of a CPU's caches.
        self._stride = self._block * (blocks if self._device.type == "cuda" else blocks | 1)
        # Layers, rows, key heads and then value heads, positions, head size.
        self._shape = (
            len(self._layers),
            max(rows, EVEN_ROWS),
            2 * self._kv_heads,
            self._stride,
            self._head_dim,
        )
        self._dtype = self._embedding.dtype
        self._cache = torch.empty(0)
        if device is None:
            self.allocate()
        # From `stride - 1 - position` on, a mask: 0 up to the position, then minus infinity.
        self._mask = torch.zeros(2 * self._stride, dtype=self._dtype, device=self._device)
        self._mask[self._stride :] = -torch.inf
        with torch.inference_mode():
            self._cos, self._sin = (
                table.to(self._dtype) for table in model.rotary(self._stride, self._device)
            )
        self._graphs: dict[tuple[int, int], _Graph] = {}
        self._recorder = _Recorder(self._device)

    def parameters(self) -> Iterator[Tensor]:
        yield self._embedding
        yield self._norm.weight
        for layer in self._layers:
            yield from layer.weights()

    def allocate(self) -> None:
        # Zeros: the values at masked positions are multiplied by 0, and 0 times infinity is no number.
        with torch.inference_mode(False):
            self._cache = _zeros(self._shape, self._dtype, self._device)
            self._workspace.allocate()

    def release(self) -> None:
        self._graphs.clear()  # they hold the addresses of the weights and the cache
        self._cache = torch.empty(0)
        self._workspace.release()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()  # the memory of graphs is in pools of their own

    @property
    def takes_many(self) -> bool:
        """Whether several tokens of a row in one step are faster than one after the other."""
        return str(self._device.type) == "cpu"  # on CUDA they run without graphs

    @torch.inference_mode()
    def prefill(self, row: int, tokens: Sequence[int]) -> None:
        """Make `tokens` the beginning of the text in `row`."""
        if not tokens:
            return
        count = len(tokens)

        def attend(layer: int, q: Tensor, kv: Tensor) -> Tensor:
            q, kv = q.transpose(0, 1), kv.transpose(0, 1)  # [heads, tokens, head_dim]
            self._cache[layer, row, :, :count] = kv
            k, v = kv.repeat_interleave(self._heads // self._kv_heads, dim=0).chunk(2)
            mixed = functional.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True)
            return mixed[0].transpose(0, 1).reshape(count, -1)

        ids = torch.tensor(tokens, device=self._device)
        self._run(ids, torch.arange(count, device=self._device), attend, states=False)

    @torch.inference_mode()
    def decode(self, feeds: Sequence[Sequence[int]], positions: Sequence[int]) -> Tensor:
        """Feed tokens to the first rows; row n has `positions[n]` tokens already.

        Returns the hidden states of the last token of each, `[len(feeds), hidden]`, normalised. On one thread
        of most CPUs they are the same to the bit whether tokens are fed one by one or together.
        """
        fed = [(feed[-1], row, positions[row] + len(feed) - 1) for row, feed in enumerate(feeds)]
        context = -(-(max(position for _, _, position in fed) + 1) // self._block) * self._block
        earlier = [(row, len(feed) - 1) for row, feed in enumerate(feeds) if len(feed) > 1]
        fed += [(feeds[row][n], row, positions[row] + n) for row, many in earlier for n in range(many)]
        # Padding: unused rows, which are overwritten when a text begins there.
        fed += [(0, row, 0) for row in range(len(feeds), len(feeds) + self._padded(len(fed)) - len(fed))]
        ids, rows, places = torch.tensor(fed, device=self._device).t().contiguous().unbind()
        count = len(feeds)
        if earlier or self._device.type != "cuda":
            return self._decode(_Step(ids, places, rows, context, count, earlier))[:count]
        graph = self._graphs.get((len(fed), context))
        if graph is None:
            graph = self._recorder.record(lambda now, at: self._decode_all(now, at, context), ids, places)
            self._graphs[len(fed), context] = graph
        return graph(ids, places)[:count]

    @torch.inference_mode()
    def copy(self, source: int, target: int, count: int) -> None:
        self._cache[:, target, :, :count] = self._cache[:, source, :, :count]

    def _padded(self, count: int) -> int:
        if self._device.type != "cuda":
            return max(count, EVEN_ROWS)
        # A graph has a fixed size; powers of two keep them few.
        return min(max(1 << (count - 1).bit_length(), EVEN_ROWS), self._shape[1])

    def _decode_all(self, ids: Tensor, positions: Tensor, context: int) -> Tensor:
        rows = torch.arange(len(ids), device=self._device)
        return self._decode(_Step(ids, positions, rows, context, len(ids)))

    def _decode(self, step: _Step) -> Tensor:
        groups = (self._kv_heads, self._heads // self._kv_heads, self._head_dim)
        heads = torch.arange(2 * self._kv_heads, device=self._device)
        slots = ((step.rows[:, None] * len(heads) + heads) * self._stride + step.positions[:, None]).flatten()
        seen = self._mask.unfold(0, step.context, 1)[self._stride - 1 - step.positions][:, None, None]
        seen = seen.expand(-1, 1, groups[1], step.context)
        cached = self._cache[:, : step.count, :, : step.context]
        keys, values = (each.unbind() for each in cached.chunk(2, dim=2))
        mixed = torch.zeros(len(step.ids), *groups, dtype=self._dtype, device=self._device)
        # Each earlier token attends to its row as if to a copy: the shape of the computation, and with it the
        # rounding, is always the same.
        ends = accumulate((many for _, many in step.earlier), initial=step.count)
        earlier = [(row, slice(*part)) for (row, _), part in zip(step.earlier, pairwise(ends), strict=True)]

        def attend(layer: int, q: Tensor, kv: Tensor) -> Tensor:
            self._cache[layer].view(-1, self._head_dim).index_copy_(0, slots, kv.reshape(-1, self._head_dim))
            # The query heads of one key head are passed as its queries, so that no keys are repeated.
            q = q.view(len(q), *groups)
            looks = [(slice(0, step.count), keys[layer], values[layer])]
            for row, part in earlier:
                own = [each[layer][row].expand(part.stop - part.start, -1, -1, -1) for each in (keys, values)]
                looks.append((part, own[0], own[1]))
            for part, k, v in looks:
                mixed[part] = functional.scaled_dot_product_attention(q[part], k, v, attn_mask=seen[part])
            return mixed.view(len(q), -1)

        return self._run(step.ids, step.positions, attend)

    def _run(self, ids: Tensor, positions: Tensor, attend: _Attend, states: bool = True) -> Tensor:
        # All layers over `[n]` tokens; without `states`, the last layer only computes keys and values.
        cos, sin = self._cos[positions][:, None], self._sin[positions][:, None]
        hidden = functional.embedding(ids, self._embedding)
        half, rotated = self._head_dim // 2, self._heads + self._kv_heads
        for number, layer in enumerate(self._layers):
            qkv = layer.qkv.times(layer.norm_in(hidden)).view(len(ids), -1, self._head_dim)
            qk = layer.qk_norm(qkv[:, :rotated])
            torch.addcmul(qk * cos, qk.roll(half, -1), sin, out=qkv[:, :rotated])
            mixed = attend(number, qkv[:, : self._heads], qkv[:, self._heads :])
            if not states and number == len(self._layers) - 1:
                return hidden
            layer.out.add_to(hidden, mixed)
            gate, up = layer.gate_up.times(layer.norm_out(hidden)).chunk(2, dim=-1)
            layer.down.add_to(hidden, functional.silu(gate).mul_(up))
        return self._norm(hidden)


# The layer's number, `[n, heads, head_dim]` queries and `[n, 2 * kv_heads, head_dim]` keys and values, to
# `[n, heads * head_dim]`.
_Attend = Callable[[int, Tensor, Tensor], Tensor]


class _Graph:
    def __init__(self, ids: Tensor, positions: Tensor) -> None:
        self.ids, self.positions = ids.clone(), positions.clone()
        self.graph = torch.cuda.CUDAGraph()
        self.hidden = ids  # the result, once it is recorded

    def __call__(self, ids: Tensor, positions: Tensor) -> Tensor:
        self.ids.copy_(ids)
        self.positions.copy_(positions)
        self.graph.replay()
        return self.hidden


class _Recorder:
    # All graphs are recorded on one stream of the decoder's device. torch's default is a stream of the
    # current device: work on another device would run at once, and be missing in the graph. And cuBLAS keeps
    # a workspace, 32 MB on some GPUs, for each stream it has seen.

    _alone = threading.Lock()  # torch records one graph at a time in a process, whatever the device

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._side: torch.cuda.Stream | None = None

    def record(self, step: Callable[[Tensor, Tensor], Tensor], ids: Tensor, positions: Tensor) -> _Graph:
        with self._alone, torch.cuda.device(self._device):
            self._side = side = self._side or torch.cuda.Stream()  # type: ignore[no-untyped-call]
            graph = _Graph(ids, positions)
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):  # libraries allocate their workspaces before the recording
                step(graph.ids, graph.positions)
            torch.cuda.current_stream().wait_stream(side)
            # By default, no other thread may allocate during the recording.
            with torch.cuda.graph(graph.graph, stream=side, capture_error_mode="thread_local"):
                graph.hidden = step(graph.ids, graph.positions)
        return graph


def _join(layer: Qwen3Layer, config: Qwen3Config, workspace: Workspace) -> _Layer:
    attention, mlp, eps = layer.self_attn, layer.mlp, config.rms_norm_eps
    q_norm = attention.q_norm.weight.expand(config.num_attention_heads, -1)
    k_norm = attention.k_norm.weight.expand(config.num_key_value_heads, -1)
    return _Layer(
        norm_in=_Norm(layer.input_layernorm.weight, eps),
        norm_out=_Norm(layer.post_attention_layernorm.weight, eps),
        qkv=join(workspace, attention.q_proj, attention.k_proj, attention.v_proj),
        qk_norm=_Norm(torch.cat((q_norm, k_norm)), eps),
        out=join(workspace, attention.o_proj),
        gate_up=join(workspace, mlp.gate_proj, mlp.up_proj),
        down=join(workspace, mlp.down_proj),
    )


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    # Mapped memory is zero, and takes room where it is written: most texts are much shorter than allowed.
    memory = mmap.mmap(-1, math.prod(shape) * dtype.itemsize)
    return torch.frombuffer(memory, dtype=dtype).view(shape)
