"""The diffusion transformer, driven layer by layer over the loaded diffusers module.

Owns the split between what a render computes once (`Attended`: rotary tables, the sliding window's
mask, the cross-attention's keys and values) and what every step computes (`velocity`); the module's own
`forward` computes all of it each time, and masks no padding. Projections are called as modules, so that
adapters may wrap them. Knows nothing of songs, prompts or schedules.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AceStepTransformer1DModel
from diffusers.models.embeddings import apply_rotary_emb, get_1d_rotary_pos_embed
from torch import Tensor
from torch.nn import functional

from acestep.synthesizer.conditioning import Condition

KeysValues = tuple[Tensor, Tensor]
Rotary = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Attended:
    """What the layers look at and no step changes, for B songs of S patches and L encoder states.

    `context` is `[B, T, C + M]`; `cross` has keys and values `[B, heads, L, head_dim]` for each layer.
    The masks are added to attention logits: `cross_mask` `[B, 1, 1, L]`, `window` `[1, 1, S, S]`; None
    where there is nothing to mask.
    """

    context: Tensor
    cross: tuple[KeysValues, ...]
    cross_mask: Tensor | None
    window: Tensor | None
    rotary: Rotary

    @property
    def songs(self) -> int:
        """How many songs (and null conditions) this holds."""
        return self.context.shape[0]

    def first(self, songs: int) -> Attended:
        """The first songs alone; shares memory."""
        return Attended(
            context=self.context[:songs],
            cross=tuple((keys[:songs], values[:songs]) for keys, values in self.cross),
            cross_mask=None if self.cross_mask is None else self.cross_mask[:songs],
            window=self.window,
            rotary=self.rotary,
        )


class Transformer:
    """Predicts velocities with a loaded `AceStepTransformer1DModel`."""

    def __init__(self, module: AceStepTransformer1DModel) -> None:
        self._module = module
        self._patch: int = module.config.patch_size

    @property
    def dtype(self) -> torch.dtype:
        """What the layers compute in."""
        dtype: torch.dtype = self._module.dtype
        return dtype

    def attend(self, condition: Condition) -> Attended:
        """Do once what every step of a render would do alike."""
        states = self._module.condition_embedder(condition.states)
        patches = -(-condition.context.shape[1] // self._patch)
        return Attended(
            context=condition.context,
            cross=tuple(_keys_values(layer.cross_attn, states) for layer in self._module.layers),
            cross_mask=None if condition.mask.all() else _additive(condition.mask, self.dtype)[:, None, None],
            window=self._window(patches, states.device),
            rotary=self._rotary(patches, states.device),
        )

    def velocity(self, latents: Tensor, t: float, attended: Attended) -> Tensor:
        """Where the latents `[B, T, C]` move at time `t`; float32 of the same shape."""
        net, frames = self._module, latents.shape[1]
        time = torch.tensor([t], device=latents.device, dtype=self.dtype)
        time_embedding, modulation = net.time_embed(time)
        # The second embedding hears the length of a mean-flow jump, which plain sampling leaves at zero.
        jump_embedding, jump_modulation = net.time_embed_r(torch.zeros_like(time))
        time_embedding, modulation = time_embedding + jump_embedding, modulation + jump_modulation

        x = torch.cat([attended.context, latents.to(self.dtype)], dim=-1)
        x = functional.pad(x, (0, 0, 0, -frames % self._patch))
        x = net.proj_in_conv(x.transpose(1, 2)).transpose(1, 2)
        for layer, cross, kind in zip(net.layers, attended.cross, net.layer_types, strict=True):
            x = _run_layer(layer, x, modulation, cross, attended, sliding=kind == "sliding_attention")
        shift, scale = (net.scale_shift_table + time_embedding[:, None]).chunk(2, dim=1)
        x = net.norm_out(x) * (1 + scale) + shift
        x = net.proj_out_conv(x.transpose(1, 2)).transpose(1, 2)
        velocity: Tensor = x[:, :frames].float()
        return velocity

    def _window(self, patches: int, device: torch.device) -> Tensor | None:
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


def _run_layer(
    layer: Any, x: Tensor, modulation: Tensor, cross: KeysValues, attended: Attended, *, sliding: bool
) -> Tensor:
    shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = (layer.scale_shift_table + modulation).chunk(
        6, dim=1
    )
    heard = layer.self_attn_norm(x) * (1 + scale) + shift
    mask = attended.window if sliding else None
    x = x + _self_attention(layer.self_attn, heard, attended.rotary, mask) * gate
    x = x + _cross_attention(layer.cross_attn, layer.cross_attn_norm(x), cross, attended.cross_mask)
    heard = layer.mlp_norm(x) * (1 + mlp_scale) + mlp_shift
    out: Tensor = x + layer.mlp(heard) * mlp_gate
    return out


def _self_attention(attention: Any, x: Tensor, rotary: Rotary, mask: Tensor | None) -> Tensor:
    keys, values = _keys_values(attention, x)
    queries, keys = _rotate(_queries(attention, x), rotary), _rotate(keys, rotary)
    return _attention(attention, queries, keys, values, mask)


def _cross_attention(attention: Any, x: Tensor, cross: KeysValues, mask: Tensor | None) -> Tensor:
    return _attention(attention, _queries(attention, x), *cross, mask)


def _queries(attention: Any, x: Tensor) -> Tensor:
    queries: Tensor = attention.norm_q(_split_heads(attention.to_q(x), attention.head_dim))
    return queries


def _keys_values(attention: Any, x: Tensor) -> KeysValues:
    keys = attention.norm_k(_split_heads(attention.to_k(x), attention.head_dim))
    return keys, _split_heads(attention.to_v(x), attention.head_dim)


def _attention(attention: Any, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    groups = attention.heads // attention.kv_heads
    if mask is not None and groups > 1:
        # The fused kernels take a mask or grouped heads, not both; copying heads is cheaper than losing them.
        keys, values = keys.repeat_interleave(groups, dim=1), values.repeat_interleave(groups, dim=1)
    mixed = functional.scaled_dot_product_attention(
        queries, keys, values, attn_mask=mask, enable_gqa=queries.shape[1] != keys.shape[1]
    )
    out: Tensor = attention.to_out[0](mixed.transpose(1, 2).flatten(2))
    return out


def _split_heads(x: Tensor, head_dim: int) -> Tensor:
    """`[B, S, heads * head_dim]` to `[B, heads, S, head_dim]`."""
    return x.view(*x.shape[:-1], -1, head_dim).transpose(1, 2)


def _rotate(x: Tensor, rotary: Rotary) -> Tensor:
    """Rotary positions in Qwen's layout: the two halves of a head turn together."""
    turned: Tensor = apply_rotary_emb(x, rotary, use_real_unbind_dim=-2)
    return turned


def _additive(keep: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask to add to logits: 0 where `keep`, else minus infinity."""
    return torch.zeros(keep.shape, dtype=dtype, device=keep.device).masked_fill(~keep, float("-inf"))
