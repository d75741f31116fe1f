"""The diffusion transformer, driven layer by layer over the loaded diffusers module.

Projections are called as modules, so that adapters may wrap them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from diffusers import AceStepTransformer1DModel
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from torch import Tensor
from torch.nn import functional

from acestep.synthesizer.attention import (
    KeysValues,
    Rotary,
    cross_attention,
    keys_values_of,
    queries_of,
    self_attention,
)
from acestep.synthesizer.conditioning import Condition
from acestep.weights.offload import ModulePlacement

Heads = Mapping[int, Sequence[int]]
"""Attention heads by the number of their layer, both from 0."""


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

    def __init__(self, module: AceStepTransformer1DModel, placement: ModulePlacement | None = None) -> None:
        self._module = module
        self._placement = placement
        self._patch: int = module.config.patch_size

    @property
    def dtype(self) -> torch.dtype:
        """What the layers compute in."""
        dtype: torch.dtype = self._module.dtype
        return dtype

    @property
    def patch(self) -> int:
        """Latent frames in one patch, which is a step in time of the layers."""
        return self._patch

    def attend(self, condition: Condition) -> Attended:
        """Do once what every step of a render would do alike."""
        self._enter()
        states = self._module.condition_embedder(condition.states)
        patches = -(-condition.context.shape[1] // self._patch)
        return Attended(
            context=condition.context,
            cross=tuple(keys_values_of(layer.cross_attn, states) for layer in self._layers()),
            cross_mask=None if condition.mask.all() else _additive(condition.mask, self.dtype)[:, None, None],
            window=self._window(patches, states.device),
            rotary=self._rotary(patches, states.device),
        )

    def velocity(self, latents: Tensor, t: float, attended: Attended) -> Tensor:
        """Where the latents `[B, T, C]` move at time `t`; float32 of the same shape."""
        net, frames = self._module, latents.shape[1]
        self._enter()
        x = self._patches(latents, attended)
        time_embedding, modulation = self._time(t, x)
        for layer, cross, kind in zip(self._layers(), attended.cross, net.layer_types, strict=True):
            gates = _gates(layer, modulation)
            x = _self_attend(layer, x, gates, attended, sliding=kind == "sliding_attention")
            x = _cross_attend(layer, x, gates, cross, attended)
        shift, scale = (net.scale_shift_table + time_embedding[:, None]).chunk(2, dim=1)
        x = net.norm_out(x) * (1 + scale) + shift
        x = net.proj_out_conv(x.transpose(1, 2)).transpose(1, 2)
        velocity: Tensor = x[:, :frames].float()
        return velocity

    def cross_logits(self, latents: Tensor, t: float, attended: Attended, heads: Heads) -> Iterator[Tensor]:
        """How the patches of latents `[B, T, C]` at time `t` attend to the encoder states, head by head.

        Yields float32 logits `[B, S, L]`, masked as `attended` is, in the order of `heads`; layers above the
        last one asked for are not run.
        """
        net = self._module
        self._enter()
        x = self._patches(latents, attended)
        _, modulation = self._time(t, x)
        for number, layer in enumerate(islice(self._layers(), max(heads) + 1)):
            cross = attended.cross[number]
            gates = _gates(layer, modulation)
            x = _self_attend(
                layer, x, gates, attended, sliding=net.layer_types[number] == "sliding_attention"
            )
            for head in heads.get(number, ()):
                yield _logits(layer, x, head, cross[0], attended.cross_mask)
            x = _cross_attend(layer, x, gates, cross, attended)

    def _enter(self) -> None:
        if self._placement:
            self._placement.enter("DiT")

    def _layers(self) -> Iterator[Any]:
        return self._placement.layers("DiT") if self._placement else iter(self._module.layers)

    def _patches(self, latents: Tensor, attended: Attended) -> Tensor:
        """Latents beside their context, as the first layer takes them: `[B, S, D]`."""
        x = torch.cat([attended.context, latents.to(self.dtype)], dim=-1)
        x = functional.pad(x, (0, 0, 0, -latents.shape[1] % self._patch))
        projected: Tensor = self._module.proj_in_conv(x.transpose(1, 2)).transpose(1, 2)
        return projected

    def _time(self, t: float, x: Tensor) -> tuple[Tensor, Tensor]:
        """What time `t` says to the end of the network `[1, D]`, and to each layer `[1, 6, D]`."""
        # To carry the number over waits for the step before. That costs a GPU little, and keeps the CPU from
        # running ahead: progress is what was done, and a planner on the same GPU gets in between the steps.
        net, time = self._module, torch.tensor([t], device=x.device, dtype=self.dtype)
        embedding, modulation = net.time_embed(time)
        # The second embedding hears the length of a mean-flow jump, which plain sampling leaves at zero.
        jump_embedding, jump_modulation = net.time_embed_r(torch.zeros_like(time))
        return embedding + jump_embedding, modulation + jump_modulation

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


def _gates(layer: Any, modulation: Tensor) -> tuple[Tensor, ...]:
    """Shift, scale and gate of a layer's self-attention, then those of its feed-forward part."""
    gates: tuple[Tensor, ...] = (layer.scale_shift_table + modulation).chunk(6, dim=1)
    return gates


def _self_attend(
    layer: Any, x: Tensor, gates: tuple[Tensor, ...], attended: Attended, *, sliding: bool
) -> Tensor:
    shift, scale, gate = gates[:3]
    source_latents = layer.self_attn_norm(x) * (1 + scale) + shift
    mask = attended.window if sliding else None
    return x + self_attention(layer.self_attn, source_latents, attended.rotary, mask) * gate


def _cross_attend(
    layer: Any, x: Tensor, gates: tuple[Tensor, ...], cross: KeysValues, attended: Attended
) -> Tensor:
    shift, scale, gate = gates[3:]
    x = x + cross_attention(layer.cross_attn, layer.cross_attn_norm(x), cross, attended.cross_mask)
    source_latents = layer.mlp_norm(x) * (1 + scale) + shift
    out: Tensor = x + layer.mlp(source_latents) * gate
    return out


def _logits(layer: Any, x: Tensor, head: int, keys: Tensor, mask: Tensor | None) -> Tensor:
    """What one head's softmax gets to see, `[B, S, L]`."""
    attention = layer.cross_attn
    queries = queries_of(attention, layer.cross_attn_norm(x))[:, head].float()
    keys = keys[:, head * attention.kv_heads // attention.heads].float()
    logits: Tensor = queries @ keys.transpose(1, 2) * attention.head_dim**-0.5
    return logits if mask is None else logits + mask[:, 0].float()


def _additive(keep: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask to add to logits: 0 where `keep`, else minus infinity."""
    return torch.zeros(keep.shape, dtype=dtype, device=keep.device).masked_fill(~keep, float("-inf"))
