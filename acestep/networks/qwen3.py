"""Qwen3, the network of the text encoder and the planner, and the tokenizer beside its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer
from torch import Tensor, nn

from acestep.catalog.checkpoints import read_json
from acestep.errors import CheckpointError
from acestep.networks.config_file import ConfigFile
from acestep.networks.layers import Attention, GatedMLP, RMSNorm, Rotary, additive_mask, rotary_tables

_FULL, _SLIDING = "full_attention", "sliding_attention"
_SIZES = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "max_position_embeddings"),
)
# What transformers takes for settings that a config.json leaves out.
_DEFAULTS: Mapping[str, object] = {
    "hidden_act": "silu",
    "head_dim": 128,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 32_768,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
}


@dataclass(frozen=True, slots=True)
class Qwen3Config:
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    tie_word_embeddings: bool
    attention_bias: bool
    windows: tuple[int | None, ...]  # by layer, positions that are seen, the own one included; None: all

    @classmethod
    def read(cls, path: Path) -> Qwen3Config:
        """Read a `config.json`. Raises CheckpointError with the setting that is wrong or not supported."""
        file = ConfigFile(path, {**_DEFAULTS, **read_json(path)})
        file.check("model_type", "qwen3")
        file.check("hidden_act", "silu")
        if file.content.get("num_key_value_heads") is None:
            file.content["num_key_value_heads"] = file.content.get("num_attention_heads")
        sizes = {name: file.size(name) for name in _SIZES}
        if sizes["num_attention_heads"] % sizes["num_key_value_heads"]:
            raise file.error("num_key_value_heads", f"a divisor of {sizes['num_attention_heads']} heads")
        return cls(
            **sizes,
            rms_norm_eps=file.number("rms_norm_eps"),
            rope_theta=_rope_theta(file),
            tie_word_embeddings=bool(file.content["tie_word_embeddings"]),
            attention_bias=bool(file.content["attention_bias"]),
            windows=_windows(file, sizes["num_hidden_layers"]),
        )


def _rope_theta(file: ConfigFile) -> float:
    # Older files have `rope_theta` beside `rope_scaling`; newer ones have both in `rope_parameters`.
    name = "rope_scaling" if file.content.get("rope_scaling") else "rope_parameters"
    rope = file.content.get(name) or {}
    if not isinstance(rope, dict):
        raise file.error(name, "an object")
    inner = ConfigFile(file.path, {"rope_theta": file.content.get("rope_theta", 10_000.0), **rope})
    kind = "rope_type" if "rope_type" in rope else "type"
    if kind in rope:
        inner.check(kind, "default")
    return inner.number("rope_theta")


def _windows(file: ConfigFile, layers: int) -> tuple[int | None, ...]:
    window = file.size("sliding_window") if file.content["use_sliding_window"] else None
    kinds = file.content.get("layer_types")
    known: dict[str, int | None] = {_FULL: None} if window is None else {_FULL: None, _SLIDING: window}
    if kinds is None:
        full = layers if window is None else file.content["max_window_layers"]
        if not isinstance(full, int):
            raise file.error("max_window_layers", "a whole number")
        kinds = [_FULL if number < full else _SLIDING for number in range(layers)]
    if not isinstance(kinds, list) or len(kinds) != layers or not set(kinds) <= known.keys():
        raise file.error("layer_types", f"a list of {layers} times {' or '.join(known)}")
    return tuple(known[kind] for kind in kinds)


class Qwen3(nn.Module):
    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Qwen3Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, ids: Tensor) -> Tensor:
        """Token ids `[B, S]` to normalised states `[B, S, D]`.

        A token sees none that follow, so that padding at the end changes nothing before it.
        """
        x: Tensor = self.embed_tokens(ids)
        length = ids.shape[1]
        cos, sin = self.rotary(length, x.device)
        rotary = cos.to(x.dtype), sin.to(x.dtype)
        for layer, window in zip(self.layers, self.config.windows, strict=True):
            mask = None if window is None or window >= length else _sliding_mask(length, window, x)
            x = layer(x, rotary, mask)
        states: Tensor = self.norm(x)
        return states

    def rotary(self, length: int, device: torch.device) -> Rotary:
        positions = torch.arange(length, device=device)
        return rotary_tables(positions, self.config.head_dim, self.config.rope_theta)


class Qwen3Layer(nn.Module):
    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.rms_norm_eps
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.input_layernorm = RMSNorm(width, eps)
        self.self_attn = Attention(width, heads, kv_heads, config.head_dim, eps, config.attention_bias)
        self.post_attention_layernorm = RMSNorm(width, eps)
        self.mlp = GatedMLP(width, config.intermediate_size)

    def forward(self, x: Tensor, rotary: Rotary, mask: Tensor | None) -> Tensor:
        """`mask` None: each position sees all before it."""
        x = x + self.self_attn(self.input_layernorm(x), rotary, mask, causal=mask is None)
        mixed: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return mixed


def _sliding_mask(length: int, window: int, like: Tensor) -> Tensor:
    seen = torch.ones(length, length, dtype=torch.bool, device=like.device).tril().triu(1 - window)
    return additive_mask(seen, like.dtype)


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a `tokenizer.json`, which neither cuts nor pads. Raises CheckpointError."""
    path, beside = folder / "tokenizer.json", folder / "tokenizer_config.json"
    try:
        tokenizer = Tokenizer.from_buffer(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: is not a tokenizer ({error})") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    config = read_json(beside) if beside.is_file() else {}
    # Tokens that only the config names get the next ids, as transformers gives them.
    listed = sorted((config.get("added_tokens_decoder") or {}).items(), key=lambda each: int(each[0]))
    tokens = [AddedToken(**fields) for _, fields in listed]
    tokenizer.add_tokens([token for token in tokens if tokenizer.token_to_id(token.content) is None])
    return tokenizer


def encode(tokenizer: Tokenizer, text: str, most: int) -> tuple[list[int], list[tuple[int, int]], int]:
    """Ids and offsets of up to `most` tokens, and how many there are uncut.

    The text's end is cut, never the tokens with which the tokenizer closes every text.
    """
    whole = tokenizer.encode(text)
    count, ids, offsets = len(whole), whole.ids, whole.offsets
    if count > most:
        closing = list(reversed(whole.special_tokens_mask)).index(0)
        cut = slice(most - closing, count - closing)
        del ids[cut], offsets[cut]
    return ids, offsets, count
