"""Attention with the projections of diffusers' modules, by kernels that keep no matrix of scores."""

from __future__ import annotations

from typing import Any

from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor, nn
from torch.nn import functional

KeysValues = tuple[Tensor, Tensor]
Rotary = tuple[Tensor, Tensor]


class EncoderAttention:
    """What diffusers calls the processor of an attention: this one for encoders, which hear but themselves.

    By itself an encoder asks for a mask and for grouped heads at once. No kernel of CUDA does both: 2,048
    tokens of lyrics would take half a gigabyte of scores a song.
    """

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Rotary | None = None,
    ) -> Tensor:
        """As diffusers names it: states `[B, S, D]`, a mask to add, and rotary tables `[S, head_dim]`."""
        assert encoder_hidden_states is None and image_rotary_emb is not None
        return self_attention(attn, hidden_states, image_rotary_emb, attention_mask)


def keep_no_scores(module: nn.Module) -> None:
    """Let all self-attention in `module` go through this room."""
    for part in module.modules():
        if isinstance(part, AttentionModuleMixin):
            part.set_processor(EncoderAttention())


def self_attention(attention: Any, x: Tensor, rotary: Rotary, mask: Tensor | None) -> Tensor:
    """What states `[B, S, D]` hear of each other; `mask` is added to the scores."""
    keys, values = keys_values_of(attention, x)
    queries, keys = _rotate(queries_of(attention, x), rotary), _rotate(keys, rotary)
    return _attention(attention, queries, keys, values, mask)


def cross_attention(attention: Any, x: Tensor, cross: KeysValues, mask: Tensor | None) -> Tensor:
    """What states `[B, S, D]` hear of other ones; `mask` is added to the scores."""
    return _attention(attention, queries_of(attention, x), *cross, mask)


def queries_of(attention: Any, x: Tensor) -> Tensor:
    """`[B, heads, S, head_dim]`."""
    queries: Tensor = attention.norm_q(_split_heads(attention.to_q(x), attention.head_dim))
    return queries


def keys_values_of(attention: Any, x: Tensor) -> KeysValues:
    """`[B, kv_heads, S, head_dim]` each."""
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
