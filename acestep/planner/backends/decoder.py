"""The layers of a Qwen3 over a cache that holds many texts at once.

Knows tokens and positions; knows nothing of grammars, sampling or songs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import Qwen3Config, Qwen3Model

from acestep.planner.backends.matrices import Bench, Matrix, join

# A matrix product of fewer rows than this goes another way through the CPU's libraries and rounds
# otherwise. With at least so many, a row's result does not depend on how many others there are (measured,
# and held by a test): that is what makes a text the same alone and in company.
EVEN_ROWS = 4
# Attention looks at the cache up to a multiple of this, for the same reason; on CUDA each is a graph.
_CPU_SPAN, _CUDA_SPAN = 32, 1024


class _Norm:
    """RMSNorm over the last dimension, whose size `weight` `[..., size]` has."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        self._eps = eps
        self._size = weight.shape[-1:]
        # On a CPU, torch puts its own together of more than twice as many steps.
        self._by_hand = weight.device.type == "cpu" and weight.dtype == torch.float32
        self._weight = weight * self._size[0] ** 0.5 if self._by_hand else weight
        self._least = torch.tensor((self._size[0] * eps) ** 0.5)

    def __call__(self, hidden: Tensor) -> Tensor:
        if self._by_hand:  # x / sqrt(|x|^2 + size * eps), times the root of size, which the weight holds
            length = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True).hypot_(self._least)
            found: Tensor = (hidden / length).mul_(self._weight)
            return found
        if self._weight.dim() == 1:
            return functional.rms_norm(hidden, self._size, self._weight, self._eps)
        return functional.rms_norm(hidden, self._size, None, self._eps) * self._weight

    @property
    def weight(self) -> Tensor:
        """What it multiplies by, in its own form."""
        return self._weight


@dataclass(frozen=True, slots=True, eq=False)
class _Layer:
    """One layer's weights, those that share an input joined: fewer, larger products."""

    norm_in: _Norm
    norm_out: _Norm
    qkv: Matrix
    qk_norm: _Norm  # [heads + kv_heads, head_dim]
    out: Matrix
    gate_up: Matrix
    down: Matrix

    def weights(self) -> Iterator[Tensor]:
        """All of them."""
        yield from (norm.weight for norm in (self.norm_in, self.norm_out, self.qk_norm))
        for matrix in (self.qkv, self.out, self.gate_up, self.down):
            yield from matrix.tensors()


@dataclass(frozen=True, slots=True, eq=False)
class _Step:
    """`ids` at `positions` of `rows`, `[n]` each, of which attention sees `span` places.

    The first `count` are the last ones of rows 0 to count - 1. Then come those before the last, of each of
    `ahead`, (row, how many); the rest is there for the shape alone.
    """

    ids: Tensor
    positions: Tensor
    rows: Tensor
    span: int
    count: int
    ahead: Sequence[tuple[int, int]] = ()


class Decoder:
    """A model with room for `rows` texts of up to `length` tokens each.

    The modules of `model` share their memory with it afterwards and stay usable. Not thread-safe.
    """

    def __init__(self, model: Qwen3Model, rows: int, length: int, device: torch.device | None = None) -> None:
        """`device`: where the weights will be when there is work; None: where they are.

        With a device, the cache is there between `allocate` and `release` alone.
        """
        config = model.config
        self.rows = rows
        self.length = length
        self._heads: int = config.num_attention_heads
        self._kv_heads: int = config.num_key_value_heads
        self._head_dim: int = config.head_dim
        self._act: Callable[[Tensor], Tensor] = model.layers[0].mlp.act_fn
        self._embedding: Tensor = model.embed_tokens.weight
        self._norm = _Norm(model.norm.weight, config.rms_norm_eps)
        self._device = device or self._embedding.device
        self._bench = Bench(self._device, self._embedding.dtype)
        self._layers = [_join(layer, config, self._bench) for layer in model.layers]
        self._span = _CUDA_SPAN if self._device.type == "cuda" else _CPU_SPAN
        spans = -(-length // self._span)
        # An odd number: rows that begin a power of two apart compete for the same lines of a CPU's caches.
        self._stride = self._span * (spans if self._device.type == "cuda" else spans | 1)
        # Layers, rows, keys and then values of each, places, numbers.
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
        # Read from `stride - 1 - position` on: 0 up to the position, then minus infinity. Added to scores.
        self._ramp = torch.zeros(2 * self._stride, dtype=self._dtype, device=self._device)
        self._ramp[self._stride :] = -torch.inf
        with torch.inference_mode():
            positions = torch.arange(self._stride, device=self._device)
            like = torch.empty(0, dtype=self._dtype, device=self._device)
            cos, sin = model.rotary_emb.to(self._device)(like, positions[None])
        # The first half of a head turns against the second: x * cos + swapped(x) * signed sin.
        half = self._head_dim // 2
        self._cos, self._sin = cos[0], torch.cat((-sin[0, :, :half], sin[0, :, half:]), dim=-1)
        self._graphs: dict[tuple[int, int], _Graph] = {}
        self._recorder = _Recorder(self._device)

    def parameters(self) -> Iterator[Tensor]:
        """All weights, which may be elsewhere while there is nothing to do."""
        yield self._embedding
        yield self._norm.weight
        for layer in self._layers:
            yield from layer.weights()

    def allocate(self) -> None:
        """Make an empty cache and the bench on the device, where the weights are."""
        # Zeros: what a masked position holds is multiplied by 0, which must not be 0 times infinity.
        with torch.inference_mode(False):
            self._cache = torch.zeros(self._shape, dtype=self._dtype, device=self._device)
            self._bench.allocate()

    def release(self) -> None:
        """Let cache and bench go, and the graphs, which know weights and these by their addresses."""
        self._graphs.clear()
        self._cache = torch.empty(0)
        self._bench.release()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()  # the memory of a graph is of use to nobody else

    @property
    def takes_many(self) -> bool:
        """Whether several tokens of a row at once are cheaper than one after the other."""
        return str(self._device.type) == "cpu"  # on CUDA they would have to do without graphs

    @torch.inference_mode()
    def prefill(self, row: int, tokens: Sequence[int]) -> None:
        """Write `tokens` into the cache as the beginning of `row`'s text. What was there is forgotten."""
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
        """Feed one or more tokens to each of the first rows, the first of them at its position.

        Returns the states after the last of each, `[len(feeds), hidden]`, normalised. Row n must hold
        `positions[n]` tokens already. A row gets the same, to the bit on one thread of a CPU, whether its
        tokens come one by one or together.
        """
        fed = [(feed[-1], row, positions[row] + len(feed) - 1) for row, feed in enumerate(feeds)]
        span = -(-(max(position for _, _, position in fed) + 1) // self._span) * self._span
        ahead = [(row, len(feed) - 1) for row, feed in enumerate(feeds) if len(feed) > 1]
        fed += [(feeds[row][n], row, positions[row] + n) for row, many in ahead for n in range(many)]
        # Rows that nobody uses, and whoever comes to use them overwrites.
        fed += [(0, row, 0) for row in range(len(feeds), len(feeds) + self._padded(len(fed)) - len(fed))]
        ids, rows, places = torch.tensor(fed, device=self._device).t().contiguous().unbind()
        count = len(feeds)
        if ahead or self._device.type != "cuda":
            return self._decode(_Step(ids, places, rows, span, count, ahead))[:count]
        graph = self._graphs.get((len(fed), span))
        if graph is None:
            graph = self._recorder.record(lambda now, at: self._decode_all(now, at, span), ids, places)
            self._graphs[len(fed), span] = graph
        return graph(ids, places)[:count]

    @torch.inference_mode()
    def copy(self, source: int, target: int, count: int) -> None:
        """Give row `target` the first `count` tokens of row `source`."""
        self._cache[:, target, :, :count] = self._cache[:, source, :, :count]

    def _padded(self, count: int) -> int:
        if self._device.type != "cuda":
            return max(count, EVEN_ROWS)
        # A graph is of one size: few sizes, few graphs.
        return min(max(1 << (count - 1).bit_length(), EVEN_ROWS), self._shape[1])

    def _decode_all(self, ids: Tensor, positions: Tensor, span: int) -> Tensor:
        rows = torch.arange(len(ids), device=self._device)
        return self._decode(_Step(ids, positions, rows, span, len(ids)))

    def _decode(self, step: _Step) -> Tensor:
        groups = (self._kv_heads, self._heads // self._kv_heads, self._head_dim)
        heads = torch.arange(2 * self._kv_heads, device=self._device)
        sequences = (
            (step.rows[:, None] * len(heads) + heads) * self._stride + step.positions[:, None]
        ).flatten()
        seen = self._ramp.unfold(0, step.span, 1)[self._stride - 1 - step.positions][:, None, None]
        seen = seen.expand(-1, 1, groups[1], step.span)
        cached = self._cache[:, : step.count, :, : step.span]
        keys, values = (each.unbind() for each in cached.chunk(2, dim=2))
        mixed = torch.zeros(len(step.ids), *groups, dtype=self._dtype, device=self._device)
        # Those ahead look at their row as if each had a copy of its own: a row's attention is always one
        # computation of one shape.
        ends = accumulate((many for _, many in step.ahead), initial=step.count)
        ahead = [(row, slice(*part)) for (row, _), part in zip(step.ahead, pairwise(ends), strict=True)]

        def attend(layer: int, q: Tensor, kv: Tensor) -> Tensor:
            self._cache[layer].view(-1, self._head_dim).index_copy_(
                0, sequences, kv.reshape(-1, self._head_dim)
            )
            # The query heads that share a key head stand in as its queries: no keys are repeated.
            q = q.view(len(q), *groups)
            looks = [(slice(0, step.count), keys[layer], values[layer])]
            for row, part in ahead:
                own = [each[layer][row].expand(part.stop - part.start, -1, -1, -1) for each in (keys, values)]
                looks.append((part, own[0], own[1]))
            for part, k, v in looks:
                mixed[part] = functional.scaled_dot_product_attention(q[part], k, v, attn_mask=seen[part])
            return mixed.view(len(q), -1)

        return self._run(step.ids, step.positions, attend)

    def _run(self, ids: Tensor, positions: Tensor, attend: _Attend, states: bool = True) -> Tensor:
        """All layers over `[n]` tokens; without `states` only as far as keys and values take."""
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
            layer.down.add_to(hidden, self._act(gate).mul_(up))
        return self._norm(hidden)


# Takes the layer's number, `[n, heads, head_dim]` queries and `[n, 2 * kv_heads, head_dim]` keys and values;
# gives `[n, heads * head_dim]`.
_Attend = Callable[[int, Tensor, Tensor], Tensor]


class _Graph:
    """A decoding step of one shape as a CUDA graph: launched at once instead of kernel by kernel."""

    def __init__(self, ids: Tensor, positions: Tensor) -> None:
        self.ids, self.positions = ids.clone(), positions.clone()
        self.graph = torch.cuda.CUDAGraph()
        self.hidden = ids  # what it leaves behind, once it is recorded

    def __call__(self, ids: Tensor, positions: Tensor) -> Tensor:
        self.ids.copy_(ids)
        self.positions.copy_(positions)
        self.graph.replay()
        return self.hidden


class _Recorder:
    """Records the graphs of one decoder.

    Always on the same stream of the decoder's own device. By itself torch records on one of the device that
    is current, where work on another would run at once and be missing in the graph; and cuBLAS keeps a
    workspace, 32 MB on some GPUs, for each stream that it has ever seen.
    """

    _alone = threading.Lock()  # torch records one graph at a time in a process, whatever the device

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._side: torch.cuda.Stream | None = None

    def record(self, step: Callable[[Tensor, Tensor], Tensor], ids: Tensor, positions: Tensor) -> _Graph:
        """`step` as a graph, which was not run yet."""
        with self._alone, torch.cuda.device(self._device):
            self._side = side = self._side or torch.cuda.Stream()  # type: ignore[no-untyped-call]
            graph = _Graph(ids, positions)
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):  # libraries allocate their workspaces before the recording
                step(graph.ids, graph.positions)
            torch.cuda.current_stream().wait_stream(side)
            # Other threads go on allocating, which by default no thread may while one records.
            with torch.cuda.graph(graph.graph, stream=side, capture_error_mode="thread_local"):
                graph.hidden = step(graph.ids, graph.positions)
        return graph


def _join(layer: Any, config: Qwen3Config, bench: Bench) -> _Layer:
    attention, mlp, eps = layer.self_attn, layer.mlp, config.rms_norm_eps
    q_norm = attention.q_norm.weight.expand(config.num_attention_heads, -1)
    k_norm = attention.k_norm.weight.expand(config.num_key_value_heads, -1)
    return _Layer(
        norm_in=_Norm(layer.input_layernorm.weight, eps),
        norm_out=_Norm(layer.post_attention_layernorm.weight, eps),
        qkv=join(bench, attention.q_proj, attention.k_proj, attention.v_proj),
        qk_norm=_Norm(torch.cat((q_norm, k_norm)), eps),
        out=join(bench, attention.o_proj),
        gate_up=join(bench, mlp.gate_proj, mlp.up_proj),
        down=join(bench, mlp.down_proj),
    )
