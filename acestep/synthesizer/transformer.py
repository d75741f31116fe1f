"""The diffusion transformer (DiT), run layer by layer over the module that diffusers defines.

B songs, T latent frames, S patches, L encoder states, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, cast

import torch
from diffusers import AceStepTransformer1DModel
from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.embeddings import apply_rotary_emb, get_1d_rotary_pos_embed
from torch import Tensor, nn
from torch.nn import functional

from acestep.weights.offload import ModulePlacement

Heads = Mapping[int, Sequence[int]]  # attention heads by the index of their layer, both from 0
KeysValues = tuple[Tensor, Tensor]  # [B, kv_heads, L, head_dim] each
Rotary = tuple[Tensor, Tensor]  # cosines and sines [S, head_dim]
Projection = Callable[[Tensor], Tensor]


class AttentionModule(Protocol):  # diffusers' `AceStepAttention`
    heads: int
    kv_heads: int
    head_dim: int
    to_q: Projection  # called as a module, since an adapter may wrap it; so are the others
    to_k: Projection
    to_v: Projection
    to_out: Sequence[Projection]
    norm_q: Projection
    norm_k: Projection


class DiTLayer(Protocol):  # diffusers' `AceStepTransformerBlock`
    self_attn: AttentionModule
    self_attn_norm: Projection
    cross_attn: AttentionModule
    cross_attn_norm: Projection
    mlp: Projection
    mlp_norm: Projection
    scale_shift_table: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Condition:
    states: Tensor  # [B, L, D], encoded lyrics, reference and caption
    mask: Tensor  # [B, L], false where a state is padding
    context: Tensor  # [B, T, C + M], source latents beside the chunk mask


@dataclass(frozen=True, slots=True, eq=False)
class ConditionCache:
    """What is computed once from a `Condition` and used in every step. Masks are added to logits."""

    context: Tensor
    cross: tuple[KeysValues, ...]  # of the cross-attention, one a layer
    cross_mask: Tensor | None  # [B, 1, 1, L]; None: no song has padding
    sliding_mask: Tensor | None  # [1, 1, S, S]; None: the window covers the song
    rotary: Rotary

    @property
    def batch(self) -> int:
        return self.context.shape[0]

    def first(self, count: int) -> ConditionCache:
        """The cache of the first songs; shares memory."""
        return ConditionCache(
            context=self.context[:count],
            cross=tuple((keys[:count], values[:count]) for keys, values in self.cross),
            cross_mask=None if self.cross_mask is None else self.cross_mask[:count],
            sliding_mask=self.sliding_mask,
            rotary=self.rotary,
        )


class Transformer:
    """Predicts velocities with a loaded `AceStepTransformer1DModel`."""

    def __init__(self, module: AceStepTransformer1DModel, placement: ModulePlacement | None = None) -> None:
        self._module = module
        self._placement = placement
        self._patch_size: int = module.config.patch_size

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self._module.dtype
        return dtype

    @property
    def patch_size(self) -> int:
        """Latent frames in one patch."""
        return self._patch_size

    def cache(self, condition: Condition) -> ConditionCache:
        self._enter()
        states = self._module.condition_embedder(condition.states)
        patches = -(-condition.context.shape[1] // self._patch_size)
        return ConditionCache(
            context=condition.context,
            cross=tuple(_keys_values(layer.cross_attn, states) for layer in self._layers()),
            cross_mask=None if condition.mask.all() else _additive(condition.mask, self.dtype)[:, None, None],
            sliding_mask=self._sliding_mask(patches, states.device),
            rotary=self._rotary(patches, states.device),
        )

    def velocity(self, latents: Tensor, t: float, cache: ConditionCache) -> Tensor:
        """The velocity of latents `[B, T, C]` at time `t`; float32 of the same shape."""
        net, frames = self._module, latents.shape[1]
        self._enter()
        x = self._patchify(latents, cache)
        time_embedding, modulation = self._embed_time(t, x)
        for layer, cross, kind in zip(self._layers(), cache.cross, net.layer_types, strict=True):
            gates = _gates(layer, modulation)
            x = _self_attend(layer, x, gates, cache, sliding=kind == "sliding_attention")
            x = _cross_attend(layer, x, gates, cross, cache)
        shift, scale = (net.scale_shift_table + time_embedding[:, None]).chunk(2, dim=1)
        x = net.norm_out(x) * (1 + scale) + shift
        x = net.proj_out_conv(x.transpose(1, 2)).transpose(1, 2)
        velocity: Tensor = x[:, :frames].float()
        return velocity

    def cross_logits(
        self, latents: Tensor, t: float, cache: ConditionCache, heads: Heads
    ) -> Iterator[Tensor]:
        """The masked cross-attention logits `[B, S, L]` of each head, in float32; layers above do not run."""
        net = self._module
        self._enter()
        x = self._patchify(latents, cache)
        _, modulation = self._embed_time(t, x)
        for index, layer in enumerate(islice(self._layers(), max(heads) + 1)):
            cross = cache.cross[index]
            gates = _gates(layer, modulation)
            x = _self_attend(layer, x, gates, cache, sliding=net.layer_types[index] == "sliding_attention")
            for head in heads.get(index, ()):
                yield _head_logits(layer, x, head, cross[0], cache.cross_mask)
            x = _cross_attend(layer, x, gates, cross, cache)

    def _enter(self) -> None:
        if self._placement is not None:
            self._placement.enter("DiT")

    def _layers(self) -> Iterator[DiTLayer]:
        if self._placement is None:
            return iter(self._module.layers)
        return cast("Iterator[DiTLayer]", self._placement.layers("DiT"))  # the same ones

    def _patchify(self, latents: Tensor, cache: ConditionCache) -> Tensor:
        x = torch.cat([cache.context, latents.to(self.dtype)], dim=-1)
        x = functional.pad(x, (0, 0, 0, -latents.shape[1] % self._patch_size))
        projected: Tensor = self._module.proj_in_conv(x.transpose(1, 2)).transpose(1, 2)
        return projected

    def _embed_time(self, t: float, x: Tensor) -> tuple[Tensor, Tensor]:
        # Copying the number to the device waits for the step before. That costs a GPU little, and keeps the
        # CPU from running ahead: progress is what was done, and a planner on the same GPU runs between steps.
        net, time = self._module, torch.tensor([t], device=x.device, dtype=self.dtype)
        embedding, modulation = net.time_embed(time)  # [1, D] for the output layer, [1, 6, D] for the others
        # The second embedding takes the length of a mean-flow jump, which is 0 in plain sampling.
        jump_embedding, jump_modulation = net.time_embed_r(torch.zeros_like(time))
        return embedding + jump_embedding, modulation + jump_modulation

    def _sliding_mask(self, patches: int, device: torch.device) -> Tensor | None:
        reach = self._module.config.sliding_window
        if reach is None or patches <= reach + 1:
            return None
        position = torch.arange(patches, device=device)
        near = (position[:, None] - position[None]).abs() <= reach
        return _additive(near, self.dtype)[None, None]

    def _rotary(self, patches: int, device: torch.device) -> Rotary:
        config = self._module.config
        position = torch.arange(patches, device=device, dtype=torch.float32)
        cos, sin = get_1d_rotary_pos_embed(
            config.head_dim, position, theta=config.rope_theta, use_real=True, repeat_interleave_real=False
        )
        return cos, sin


class EncoderAttentionProcessor:
    """Runs the self-attention of diffusers' encoders by kernels that keep no matrix of scores."""

    # The encoders' own processor asks for a mask and grouped heads at once. No CUDA kernel does both, and the
    # scores of 2,048 lyric tokens would take half a gigabyte a song.

    def __call__(
        self,
        attn: AttentionModule,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Rotary | None = None,
    ) -> Tensor:
        assert encoder_hidden_states is None and image_rotary_emb is not None
        return _self_attention(attn, hidden_states, image_rotary_emb, attention_mask)


def use_fused_attention(module: nn.Module) -> None:
    """Set `EncoderAttentionProcessor` for all self-attention in `module`."""
    for part in module.modules():
        if isinstance(part, AttentionModuleMixin):
            part.set_processor(EncoderAttentionProcessor())


def _gates(layer: DiTLayer, modulation: Tensor) -> tuple[Tensor, ...]:
    # Shift, scale and gate of self-attention, then those of the MLP.
    return (layer.scale_shift_table + modulation).chunk(6, dim=1)


def _self_attend(
    layer: DiTLayer, x: Tensor, gates: tuple[Tensor, ...], cache: ConditionCache, *, sliding: bool
) -> Tensor:
    shift, scale, gate = gates[:3]
    normed = layer.self_attn_norm(x) * (1 + scale) + shift
    mask = cache.sliding_mask if sliding else None
    return x + _self_attention(layer.self_attn, normed, cache.rotary, mask) * gate


def _cross_attend(
    layer: DiTLayer, x: Tensor, gates: tuple[Tensor, ...], cross: KeysValues, cache: ConditionCache
) -> Tensor:
    shift, scale, gate = gates[3:]
    x = x + _cross_attention(layer.cross_attn, layer.cross_attn_norm(x), cross, cache.cross_mask)
    normed = layer.mlp_norm(x) * (1 + scale) + shift
    return x + layer.mlp(normed) * gate


def _head_logits(layer: DiTLayer, x: Tensor, head: int, keys: Tensor, mask: Tensor | None) -> Tensor:
    attention = layer.cross_attn
    queries = _queries(attention, layer.cross_attn_norm(x))[:, head].float()
    keys = keys[:, head * attention.kv_heads // attention.heads].float()
    logits: Tensor = queries @ keys.transpose(1, 2) * attention.head_dim**-0.5
    return logits if mask is None else logits + mask[:, 0].float()


def _self_attention(attention: AttentionModule, x: Tensor, rotary: Rotary, mask: Tensor | None) -> Tensor:
    keys, values = _keys_values(attention, x)
    queries, keys = _rotate(_queries(attention, x), rotary), _rotate(keys, rotary)
    return _attention(attention, queries, keys, values, mask)


def _cross_attention(attention: AttentionModule, x: Tensor, cross: KeysValues, mask: Tensor | None) -> Tensor:
    return _attention(attention, _queries(attention, x), *cross, mask)


def _attention(
    attention: AttentionModule, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None
) -> Tensor:
    groups = attention.heads // attention.kv_heads
    if mask is not None and groups > 1:
        # Fused kernels take a mask or grouped heads, not both; copying heads is cheaper than a slow kernel.
        keys, values = keys.repeat_interleave(groups, dim=1), values.repeat_interleave(groups, dim=1)
    mixed = functional.scaled_dot_product_attention(
        queries, keys, values, attn_mask=mask, enable_gqa=queries.shape[1] != keys.shape[1]
    )
    return attention.to_out[0](mixed.transpose(1, 2).flatten(2))


def _queries(attention: AttentionModule, x: Tensor) -> Tensor:
    return attention.norm_q(_split_heads(attention.to_q(x), attention.head_dim))


def _keys_values(attention: AttentionModule, x: Tensor) -> KeysValues:
    keys = attention.norm_k(_split_heads(attention.to_k(x), attention.head_dim))
    return keys, _split_heads(attention.to_v(x), attention.head_dim)


def _split_heads(x: Tensor, head_dim: int) -> Tensor:
    return x.view(*x.shape[:-1], -1, head_dim).transpose(1, 2)  # [B, heads, S, head_dim]


def _rotate(x: Tensor, rotary: Rotary) -> Tensor:
    # Qwen's layout: the two halves of a head are rotated together.
    rotated: Tensor = apply_rotary_emb(x, rotary, use_real_unbind_dim=-2)
    return rotated


def _additive(keep: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(keep.shape, dtype=dtype, device=keep.device).masked_fill(~keep, float("-inf"))
