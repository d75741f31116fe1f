"""The layers of a Qwen3 over a cache that holds many texts at once.

Owns the key-value cache, a row for each text, and one pass through the layers. Knows tokens and positions;
knows nothing of grammars, sampling or songs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import Qwen3Model

# A matrix product of fewer rows than this goes another way through the CPU's libraries and rounds
# otherwise. With at least so many, a row's result does not depend on how many others there are (measured,
# and held by a test): that is what makes a text the same alone and in company.
EVEN_ROWS = 4
# Attention looks at the cache up to a multiple of this, for the same reason; on CUDA each is a graph.
_CPU_SPAN, _CUDA_SPAN = 128, 1024


@dataclass(frozen=True, slots=True, eq=False)
class _Layer:
    """One layer's weights, those that share an input joined: fewer, larger products.

    Matrices are `[in, out]`, which a CPU multiplies faster for few rows.
    """

    norm_in: Tensor
    norm_out: Tensor
    qkv: Tensor
    qk_norm: Tensor  # [heads + kv_heads, head_dim]
    out: Tensor
    gate_up: Tensor
    down: Tensor


class Decoder:
    """A model with room for `rows` texts of up to `length` tokens each.

    The modules of `model` share their memory with it afterwards and stay usable. Not thread-safe.
    """

    def __init__(self, model: Qwen3Model, rows: int, length: int) -> None:
        config = model.config
        self.rows = rows
        self.length = length
        self._heads: int = config.num_attention_heads
        self._kv_heads: int = config.num_key_value_heads
        self._head_dim: int = config.head_dim
        self._eps: float = config.rms_norm_eps
        self._act: Callable[[Tensor], Tensor] = model.layers[0].mlp.act_fn
        self._embedding: Tensor = model.embed_tokens.weight
        self._norm: Tensor = model.norm.weight
        self._layers = [_join(layer, self._heads, self._kv_heads) for layer in model.layers]
        self._device = self._embedding.device
        self._span = _CUDA_SPAN if self._device.type == "cuda" else _CPU_SPAN
        self._stride = -(-length // self._span) * self._span
        shape = (len(self._layers), max(rows, EVEN_ROWS), self._kv_heads, self._stride, self._head_dim)
        # Zeros: what a masked position holds is multiplied by 0, which must not be 0 times infinity.
        self._keys = torch.zeros(shape, dtype=self._embedding.dtype, device=self._device)
        self._values = torch.zeros_like(self._keys)
        with torch.inference_mode():
            positions = torch.arange(self._stride, device=self._device)
            cos, sin = model.rotary_emb(self._embedding, positions[None])
        # The first half of a head turns against the second: x * cos + swapped(x) * signed sin.
        half = self._head_dim // 2
        self._cos, self._sin = cos[0], torch.cat((-sin[0, :, :half], sin[0, :, half:]), dim=-1)
        self._graphs: dict[tuple[int, int], _Graph] = {}

    @torch.inference_mode()
    def prefill(self, row: int, tokens: Sequence[int]) -> None:
        """Write `tokens` into the cache as the beginning of `row`'s text. What was there is forgotten."""
        if not tokens:
            return
        count = len(tokens)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            q, k, v = (each.transpose(0, 1) for each in (q, k, v))  # [heads, tokens, head_dim]
            self._keys[layer, row, :, :count] = k
            self._values[layer, row, :, :count] = v
            group = self._heads // self._kv_heads
            k, v = k.repeat_interleave(group, dim=0), v.repeat_interleave(group, dim=0)
            mixed = functional.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True)
            return mixed[0].transpose(0, 1)

        ids = torch.tensor(tokens, device=self._device)
        self._run(ids, torch.arange(count, device=self._device), attend)

    @torch.inference_mode()
    def decode(self, tokens: Sequence[int], positions: Sequence[int]) -> Tensor:
        """Feed one token to each of the first rows, at its position; `[len(tokens), hidden]`, normalised.

        Row n must hold `positions[n]` tokens already.
        """
        count = len(tokens)
        padded = self._padded(count)
        idle = [0] * (padded - count)  # written to rows that nobody uses, and overwritten by who does
        span = -(-(max(positions) + 1) // self._span) * self._span
        ids = torch.tensor([*tokens, *idle], device=self._device)
        places = torch.tensor([*positions, *idle], device=self._device)
        if self._device.type != "cuda":
            return self._decode(ids, places, span, count)[:count]
        graph = self._graphs.get((padded, span))
        if graph is None:
            graph = _Graph(lambda ids, places: self._decode(ids, places, span, padded), ids, places)
            self._graphs[padded, span] = graph
        return graph(ids, places)[:count]

    @torch.inference_mode()
    def copy(self, source: int, target: int, count: int) -> None:
        """Give row `target` the first `count` tokens of row `source`."""
        self._keys[:, target, :, :count] = self._keys[:, source, :, :count]
        self._values[:, target, :, :count] = self._values[:, source, :, :count]

    def _padded(self, count: int) -> int:
        if self._device.type != "cuda":
            return max(count, EVEN_ROWS)
        # A graph is of one size: few sizes, few graphs.
        return min(max(1 << (count - 1).bit_length(), EVEN_ROWS), self._keys.shape[1])

    def _decode(self, ids: Tensor, positions: Tensor, span: int, count: int) -> Tensor:
        """A step of all of `ids`; those after the first `count` are there for the shape alone."""
        rows, group = len(ids), self._heads // self._kv_heads
        heads = torch.arange(rows * self._kv_heads, device=self._device).view(rows, self._kv_heads)
        slots = (heads * self._stride + positions[:, None]).flatten()
        seen = torch.arange(span, device=self._device) <= positions[:count, None]
        # Added to the scores; attention would turn a mask of bools into this in every layer.
        mask = torch.zeros(count, span, dtype=self._keys.dtype, device=self._device)
        mask = mask.masked_fill(~seen, -torch.inf)[:, None, None].expand(count, 1, group, span)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys, values = self._keys[layer], self._values[layer]
            keys.view(-1, self._head_dim).index_copy_(0, slots, k.reshape(-1, self._head_dim))
            values.view(-1, self._head_dim).index_copy_(0, slots, v.reshape(-1, self._head_dim))
            # The query heads that share a key head stand in as its queries: no keys are repeated.
            q = q[:count].reshape(count, self._kv_heads, group, self._head_dim)
            k, v = keys[:count, :, :span], values[:count, :, :span]
            mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).flatten(1)
            return mixed if count == rows else functional.pad(mixed, (0, 0, 0, rows - count))

        return self._run(ids, positions, attend)

    def _run(self, ids: Tensor, positions: Tensor, attend: _Attend) -> Tensor:
        """All layers over `[n]` tokens; `attend` takes `[n, heads, head_dim]` and gives `[n, …]`."""
        cos, sin = self._cos[positions][:, None], self._sin[positions][:, None]
        hidden = functional.embedding(ids, self._embedding)
        count, half, rotated = len(ids), self._head_dim // 2, self._heads + self._kv_heads
        for number, layer in enumerate(self._layers):
            qkv = (self._normed(hidden, layer.norm_in) @ layer.qkv).view(count, -1, self._head_dim)
            qk = self._normed(qkv[:, :rotated], None) * layer.qk_norm
            qk = qk * cos + qk.roll(half, -1) * sin
            mixed = attend(number, qk[:, : self._heads], qk[:, self._heads :], qkv[:, rotated:])
            hidden = hidden + mixed.reshape(count, -1) @ layer.out
            gate, up = (self._normed(hidden, layer.norm_out) @ layer.gate_up).chunk(2, dim=-1)
            hidden = hidden + (self._act(gate) * up) @ layer.down
        return self._normed(hidden, self._norm)

    def _normed(self, hidden: Tensor, weight: Tensor | None) -> Tensor:
        return functional.rms_norm(hidden, hidden.shape[-1:], weight, self._eps)


_Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


class _Graph:
    """A decoding step of one shape as a CUDA graph: launched at once instead of kernel by kernel."""

    def __init__(self, step: Callable[[Tensor, Tensor], Tensor], ids: Tensor, positions: Tensor) -> None:
        self._ids, self._positions = ids.clone(), positions.clone()
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # libraries allocate their workspaces before the recording
            step(self._ids, self._positions)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._hidden = step(self._ids, self._positions)

    def __call__(self, ids: Tensor, positions: Tensor) -> Tensor:
        self._ids.copy_(ids)
        self._positions.copy_(positions)
        self._graph.replay()
        return self._hidden


def _join(layer: Any, heads: int, kv_heads: int) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    norms = (attention.q_norm.weight.expand(heads, -1), attention.k_norm.weight.expand(kv_heads, -1))
    return _Layer(
        norm_in=layer.input_layernorm.weight,
        norm_out=layer.post_attention_layernorm.weight,
        qkv=_stacked(attention.q_proj, attention.k_proj, attention.v_proj),
        qk_norm=torch.cat(norms),
        out=_stacked(attention.o_proj),
        gate_up=_stacked(mlp.gate_proj, mlp.up_proj),
        down=_stacked(mlp.down_proj),
    )


def _stacked(*linears: Any) -> Tensor:
    """The weights as one `[in, out]`; each module keeps a view of its part, so that nothing is held twice."""
    joined = torch.cat([linear.weight.data.t() for linear in linears], dim=1)
    start = 0
    for linear in linears:
        linear.weight.data = joined[:, start : start + linear.out_features].t()
        start += linear.out_features
    return joined
