from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

Rotary = tuple[Tensor, Tensor]  # [S, head_dim] each: cosines; sines, negative in the first half
KeysValues = tuple[Tensor, Tensor]  # [B, kv_heads, S, head_dim] each

# Queries of a block of banded attention. Small ones compute less in vain; a GPU is better off with few calls.
_BLOCK_ON_CPU, _BLOCK = 64, 512


def random_parameter(*shape: int, scale: float = 1.0) -> nn.Parameter:
    return nn.Parameter(nn.init.normal_(torch.empty(shape), std=scale))


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return functional.rms_norm(x, self.weight.shape, self.weight, self.eps)
        # On a CPU, torch's own passes over the numbers twice as often.
        length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        scale = length.square().mul_(1 / x.shape[-1]).add_(self.eps).rsqrt_()
        return (x * scale).to(x.dtype).mul_(self.weight)


class GatedMLP(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate = functional.silu(self.gate_proj(x), inplace=True)
        mixed: Tensor = self.down_proj(gate.mul_(self.up_proj(x)))
        return mixed


class Attention(nn.Module):
    """Attention with grouped heads and normalised queries and keys; `[B, S, width]` to the same shape."""

    def __init__(
        self, width: int, heads: int, kv_heads: int, head_dim: int, eps: float, bias: bool = False
    ) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.q_proj = nn.Linear(width, heads * head_dim, bias)
        self.k_proj = nn.Linear(width, kv_heads * head_dim, bias)
        self.v_proj = nn.Linear(width, kv_heads * head_dim, bias)
        self.o_proj = nn.Linear(heads * head_dim, width, bias)
        self.q_norm = RMSNorm(head_dim, eps)
        self.k_norm = RMSNorm(head_dim, eps)

    def forward(
        self,
        x: Tensor,
        rotary: Rotary,
        mask: Tensor | None = None,
        causal: bool = False,
        band: Tensor | None = None,
    ) -> Tensor:
        keys, values = self.keys_values(x)
        queries, keys = rotate(self.queries(x), rotary), rotate(keys, rotary)
        if band is not None:
            return self.output(attend_within(queries, keys, values, band))
        return self.output(attend(queries, keys, values, mask, causal))

    def queries(self, x: Tensor) -> Tensor:
        normed: Tensor = self.q_norm(self._heads(self.q_proj(x)))
        return normed

    def keys_values(self, x: Tensor) -> KeysValues:
        return self.k_norm(self._heads(self.k_proj(x))), self._heads(self.v_proj(x))

    def output(self, mixed: Tensor) -> Tensor:
        projected: Tensor = self.o_proj(mixed.transpose(1, 2).flatten(2))
        return projected

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], -1, self.head_dim).transpose(1, 2)  # [B, heads, S, head_dim]


def attend(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None, causal: bool = False
) -> Tensor:
    """`[B, heads, S, head_dim]`; `mask` broadcasts to `[B, heads, S, L]` and is added to the scores."""
    groups = queries.shape[1] // keys.shape[1]
    if mask is not None and groups > 1 and mask.device.type != "cpu":
        # A GPU's fused kernels take a mask or grouped heads, not both; copying is cheaper than a slow kernel.
        keys, values = keys.repeat_interleave(groups, dim=1), values.repeat_interleave(groups, dim=1)
    return functional.scaled_dot_product_attention(
        *(queries, keys, values),
        attn_mask=mask,
        is_causal=causal,
        enable_gqa=queries.shape[1] != keys.shape[1],
    )


def additive_mask(keep: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to scores so that only those of `keep` count."""
    return torch.zeros(keep.shape, dtype=dtype, device=keep.device).masked_fill(~keep, float("-inf"))


def band_mask(length: int, window: int | None, like: Tensor) -> Tensor | None:
    """The mask `[rows, rows + 2 * window]` of a block of queries and the keys around it, for `attend_within`.

    None where the window covers all of `length`.
    """
    if window is None or length <= window + 1:
        return None
    rows = _BLOCK_ON_CPU if like.device.type == "cpu" else _BLOCK
    row = torch.arange(rows, device=like.device)[:, None]
    column = torch.arange(rows + 2 * window, device=like.device)
    return additive_mask((column - row - window).abs() <= window, like.dtype)


def attend_within(queries: Tensor, keys: Tensor, values: Tensor, band: Tensor) -> Tensor:
    """As `attend` for positions that see no farther than the window of `band`; linear in their number."""
    rows, columns = band.shape
    window, length = (columns - rows) // 2, queries.shape[2]
    mixed = []
    for start in range(0, length, rows):
        stop, first, last = min(start + rows, length), max(start - window, 0), start + rows + window
        near, shift = slice(first, min(last, length)), window - start
        mask = band[: stop - start, near.start + shift : near.stop + shift]
        mixed.append(attend(queries[:, :, start:stop], keys[:, :, near], values[:, :, near], mask))
    return torch.cat(mixed, dim=2)


def rotary_tables(positions: Tensor, head_dim: int, theta: float) -> Rotary:
    """The tables in float32 of positions `[S]`."""
    even = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32)
    angles = torch.outer(positions.float(), 1.0 / theta ** (even / head_dim))
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def rotate(x: Tensor, rotary: Rotary) -> Tensor:
    """`x` `[..., S, head_dim]`, the two halves of each head rotated together, in the dtype of `x`."""
    cos, sin = rotary
    half = x.shape[-1] // 2
    rotated = x * cos
    rotated[..., :half].addcmul_(x[..., half:], sin[..., :half])
    rotated[..., half:].addcmul_(x[..., :half], sin[..., half:])
    return rotated.to(x.dtype)
