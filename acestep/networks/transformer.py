"""The diffusion transformer (DiT).

B songs, T latent frames, S patches, L encoder states, D hidden size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from acestep.networks.config import LayerConfig, SynthesizerConfig
from acestep.networks.layers import (
    Attention,
    GatedMLP,
    RMSNorm,
    Rotary,
    additive_mask,
    attend,
    band_mask,
    random_parameter,
    rotary_tables,
)

Heads = Mapping[int, Sequence[int]]  # attention heads by the index of their layer, both from 0
Layers = Callable[[], Iterable[object]]  # brings the weights to the device, where they are offloaded
TimeEmbedding = tuple[Tensor, Tensor]  # [B or 1, 1, D] for the output, [B or 1, 6, D] for the layers

_TIME_CHANNELS, _TIME_SCALE, _LONGEST_PERIOD = 256, 1000.0, 10_000.0


@dataclass(frozen=True, slots=True, eq=False)
class Condition:
    states: Tensor  # [B, L, D], encoded lyrics, reference and caption
    mask: Tensor  # [B, L], false where a state is padding
    context: Tensor  # [B, T, C + M], source latents beside the chunk mask
    null: Tensor | None = None  # [1, 1, D], the one state of guidance's unconditional rows; None: no guidance


class CrossCache(NamedTuple):
    """Of the cross-attention of one layer."""

    keys: Tensor
    values: Tensor
    null: Tensor | None  # [1, 1, D]: what attention to one state alone gives, whatever asks


@dataclass(frozen=True, slots=True, eq=False)
class ConditionCache:
    """What is computed once from a `Condition` and used in every step. Masks are added to logits."""

    layers: Layers  # of the DiT
    context: Tensor
    cross: tuple[CrossCache, ...]  # one a layer
    cross_mask: Tensor | None  # [B, 1, 1, L]; None: no song has padding
    band: Tensor | None  # of the sliding layers; None: their window covers the song
    rotary: Rotary
    jump: TimeEmbedding  # of the length of a mean-flow jump, which is 0 in plain sampling

    def unguided(self) -> ConditionCache:
        """The same without unconditional rows; shares memory."""
        return replace(self, cross=tuple(each._replace(null=None) for each in self.cross))


class TimeEmbedder(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(_TIME_CHANNELS, width)
        self.linear_2 = nn.Linear(width, width)
        self.time_proj = nn.Linear(width, 6 * width)

    def forward(self, time: Tensor) -> TimeEmbedding:
        """Embeds times `[B]`."""
        half = _TIME_CHANNELS // 2
        octave = torch.arange(half, device=time.device, dtype=torch.float32) / half
        angles = (time * _TIME_SCALE)[:, None].float() * torch.exp(-math.log(_LONGEST_PERIOD) * octave)
        waves = torch.cat([angles.cos(), angles.sin()], dim=-1).to(time.dtype)
        embedding = self.linear_2(functional.silu(self.linear_1(waves)))
        modulation = self.time_proj(functional.silu(embedding))
        return embedding[:, None], modulation.unflatten(1, (6, -1))


def attention(config: LayerConfig) -> Attention:
    return Attention(
        config.hidden_size,
        config.num_attention_heads,
        config.num_key_value_heads,
        config.head_dim,
        config.rms_norm_eps,
        config.attention_bias,
    )


class DiTLayer(nn.Module):
    def __init__(self, config: LayerConfig, window: int | None) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.rms_norm_eps
        self.is_sliding, self.heads = window is not None, config.num_attention_heads
        self.self_attn_norm = RMSNorm(width, eps)
        self.self_attn = attention(config)
        self.cross_attn_norm = RMSNorm(width, eps)
        self.cross_attn = attention(config)
        self.mlp_norm = RMSNorm(width, eps)
        self.mlp = GatedMLP(width, config.intermediate_size)
        self.scale_shift_table = random_parameter(1, 6, width, scale=width**-0.5)

    def forward(self, x: Tensor, modulation: Tensor, cross: CrossCache, cache: ConditionCache) -> Tensor:
        return self.cross_attend(self.self_attend(x, modulation, cache), modulation, cross, cache)

    def self_attend(self, x: Tensor, modulation: Tensor, cache: ConditionCache) -> Tensor:
        shift, scale, gate = (self.scale_shift_table[:, :3] + modulation[:, :3]).chunk(3, dim=1)
        normed = torch.addcmul(shift, self.self_attn_norm(x), 1 + scale)
        band = cache.band if self.is_sliding else None
        return torch.addcmul(x, self.self_attn(normed, cache.rotary, band=band), gate)

    def cross_attend(self, x: Tensor, modulation: Tensor, cross: CrossCache, cache: ConditionCache) -> Tensor:
        """Cross-attention, from which on guidance's unconditional rows are rows of their own, and the MLP."""
        shift, scale, gate = (self.scale_shift_table[:, 3:] + modulation[:, 3:]).chunk(3, dim=1)
        songs = len(cross.keys)
        conditional = x[:songs] + self._cross_attention(x[:songs], cross, cache.cross_mask)
        x = conditional if cross.null is None else torch.cat([conditional, x[-songs:] + cross.null])
        normed = torch.addcmul(shift, self.mlp_norm(x), 1 + scale)
        return torch.addcmul(x, self.mlp(normed), gate)

    def _cross_attention(self, x: Tensor, cross: CrossCache, mask: Tensor | None) -> Tensor:
        queries = self.cross_attn.queries(self.cross_attn_norm(x))
        return self.cross_attn.output(attend(queries, cross.keys, cross.values, mask))

    def cross_cache(self, states: Tensor, null: Tensor | None) -> CrossCache:
        keys, values = self.cross_attn.keys_values(states)
        if null is not None:
            _, alone = self.cross_attn.keys_values(null)
            null = self.cross_attn.output(alone.repeat_interleave(self.heads // alone.shape[1], dim=1))
        return CrossCache(keys, values, null)

    def cross_logits(self, x: Tensor, head: int, keys: Tensor, mask: Tensor | None) -> Tensor:
        """The masked logits `[B, S, L]` of one head, in float32."""
        queries = self.cross_attn.queries(self.cross_attn_norm(x))
        keys = keys[:, head * keys.shape[1] // queries.shape[1]].float()
        logits: Tensor = queries[:, head].float() @ keys.transpose(1, 2) * queries.shape[-1] ** -0.5
        return logits if mask is None else logits + mask[:, 0].float()


class Transformer(nn.Module):
    """Predicts velocities."""

    def __init__(self, config: SynthesizerConfig) -> None:
        super().__init__()
        dit, patch = config.dit, config.patch_size
        width = dit.hidden_size
        self.config = config
        self.layers = nn.ModuleList(DiTLayer(dit, window) for window in dit.windows(config.dit_layers))
        # In the published files the convolutions are the second modules of a sequence.
        self.proj_in = nn.Sequential(nn.Identity(), nn.Conv1d(config.in_channels, width, patch, patch))
        self.proj_out = nn.Sequential(
            nn.Identity(), nn.ConvTranspose1d(width, config.latent_channels, patch, patch)
        )
        self.time_embed = TimeEmbedder(width)
        self.time_embed_r = TimeEmbedder(width)
        self.condition_embedder = nn.Linear(config.encoder.hidden_size, width)
        self.norm_out = RMSNorm(width, dit.rms_norm_eps)
        self.scale_shift_table = random_parameter(1, 2, width, scale=width**-0.5)

    @property
    def dtype(self) -> torch.dtype:
        return self.norm_out.weight.dtype

    def cache(self, condition: Condition, layers: Layers | None = None) -> ConditionCache:
        """`layers` are the module's own; None: they are on the device."""
        layers = layers or partial(iter, self.layers)
        entered = cast("Iterable[DiTLayer]", layers())
        states, dit = self.condition_embedder(condition.states), self.config.dit
        null = None if condition.null is None else self.condition_embedder(condition.null)
        patches = -(-condition.context.shape[1] // self.config.patch_size)
        padding = None if condition.mask.all() else additive_mask(condition.mask, self.dtype)[:, None, None]
        return ConditionCache(
            layers=layers,
            context=condition.context,
            cross=tuple(layer.cross_cache(states, null) for layer in entered),
            cross_mask=padding,
            band=band_mask(patches, dit.sliding_window, states),
            rotary=rotary_tables(torch.arange(patches, device=states.device), dit.head_dim, dit.rope_theta),
            jump=self.time_embed_r(states.new_zeros(1)),
        )

    def velocity(self, latents: Tensor, t: float, cache: ConditionCache) -> Tensor:
        """The velocity of latents `[B, T, C]` at time `t`; float32 of the same shape.

        With guidance `[2 * B, T, C]`: the conditional velocities, then the unconditional ones.
        """
        layers = cast("Iterable[DiTLayer]", cache.layers())
        x = self.patchify(latents, cache)
        embedding, modulation = self._embed(t, cache)
        for layer, cross in zip(layers, cache.cross, strict=True):
            x = layer(x, modulation, cross, cache)
        return self.unpatchify(x, embedding)[:, : latents.shape[1]].float()

    def cross_logits(
        self, latents: Tensor, t: float, cache: ConditionCache, heads: Heads
    ) -> Iterator[Tensor]:
        """The masked cross-attention logits `[B, S, L]` of each head, in float32; layers above do not run."""
        layers = cast("Iterable[DiTLayer]", cache.layers())
        x = self.patchify(latents, cache)
        _, modulation = self._embed(t, cache)
        for index, layer in enumerate(islice(layers, max(heads) + 1)):
            cross = cache.cross[index]
            x = layer.self_attend(x, modulation, cache)
            for head in heads.get(index, ()):
                yield layer.cross_logits(x, head, cross[0], cache.cross_mask)
            x = layer.cross_attend(x, modulation, cross, cache)

    def patchify(self, latents: Tensor, cache: ConditionCache) -> Tensor:
        x = torch.cat([cache.context, latents.to(self.dtype)], dim=-1)
        x = functional.pad(x, (0, 0, 0, -latents.shape[1] % self.config.patch_size))
        # Contiguous, since every product in the layers is slower on strided rows, in bfloat16 up to 7 times.
        projected: Tensor = self.proj_in(x.transpose(1, 2)).transpose(1, 2).contiguous()
        return projected

    def unpatchify(self, x: Tensor, embedding: Tensor) -> Tensor:
        shift, scale = (self.scale_shift_table + embedding).chunk(2, dim=1)
        x = torch.addcmul(shift, self.norm_out(x), 1 + scale)
        frames: Tensor = self.proj_out(x.transpose(1, 2)).transpose(1, 2)
        return frames

    def embed_time(self, time: Tensor, cache: ConditionCache) -> TimeEmbedding:
        """Embeds times `[B]`, or one for all songs."""
        embedding, modulation = self.time_embed(time)
        return embedding + cache.jump[0], modulation + cache.jump[1]

    def _embed(self, t: float, cache: ConditionCache) -> TimeEmbedding:
        # Copying the number to the device waits for the step before. That costs a GPU little, and keeps the
        # CPU from running ahead: progress is what was done, and a planner on the same GPU runs between steps.
        return self.embed_time(torch.tensor([t], device=cache.context.device, dtype=self.dtype), cache)
