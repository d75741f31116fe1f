"""How large the models are, counted from their configs.

Counts are exact: tests hold them against the model classes.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Self

from acestep.errors import SettingError
from acestep.settings.types import Quantization

_TIME_CHANNELS = 256  # sinusoids that the DiT's two time embeddings start from

_SILENCE_FRAMES = 15_000  # of the silence that every published checkpoint holds


@dataclass(frozen=True, slots=True)
class Layer:
    """A transformer layer: width, feed-forward width, heads, key-value heads, head size."""

    width: int
    inner: int
    heads: int
    kv_heads: int
    head: int
    bias: bool = False

    @classmethod
    def of(cls, config: Mapping[str, Any], prefix: str = "") -> Self:
        """Sizes without `prefix` ("encoder_") stand in for missing ones with it."""

        def size(name: str) -> int:
            return int(config.get(prefix + name) or config[name])

        heads = size("num_attention_heads")
        return cls(
            width=size("hidden_size"),
            inner=size("intermediate_size"),
            heads=heads,
            kv_heads=size("num_key_value_heads"),
            head=int(config.get("head_dim") or size("hidden_size") // heads),
            bias=bool(config.get("attention_bias", False)),
        )

    @property
    def keys_values(self) -> int:
        """Numbers of one token's keys and values."""
        return 2 * self.kv_heads * self.head

    @property
    def attention(self) -> int:
        """Weights, with the norms of queries and keys."""
        queries = self.heads * self.head
        biases = queries + self.keys_values + self.width if self.bias else 0
        return self.width * (2 * queries + self.keys_values) + 2 * self.head + biases

    @property
    def feed_forward(self) -> int:
        return 3 * self.width * self.inner

    @property
    def plain_matrices(self) -> Matrices:
        return self._matrices(attentions=1)

    @property
    def crossed_matrices(self) -> Matrices:
        return self._matrices(attentions=2)

    def _matrices(self, attentions: int) -> Matrices:
        queries = self.heads * self.head
        attention = self.width * (2 * queries + self.keys_values)
        rows = queries + self.keys_values + self.width
        return Matrices(
            weights=attentions * attention + self.feed_forward,
            rows=attentions * rows + 2 * self.inner + self.width,
            largest=self.width * max(self.inner, queries),
        )

    @property
    def plain(self) -> int:
        """Weights of a layer of encoders and language models, with self-attention only."""
        return self.attention + self.feed_forward + 2 * self.width

    @property
    def crossed(self) -> int:
        """Weights of a layer of the DiT, with cross-attention and the modulation table."""
        return 2 * self.attention + self.feed_forward + 3 * self.width + 6 * self.width


@dataclass(frozen=True, slots=True)
class DitSize:
    """A DiT folder: the diffusion transformer and its encoders.

    `channels` of a latent frame, `in_channels` of the DiT's input; `window` is None for full attention.
    """

    name: str
    is_turbo: bool
    layer: Layer
    layers: int
    encoder: Layer
    lyric_layers: int
    timbre_layers: int
    pooler_layers: int
    channels: int
    in_channels: int
    patch: int
    window: int | None
    text_width: int
    pool: int
    fsq_width: int
    fsq_levels: int

    @classmethod
    def of(cls, name: str, config: Mapping[str, Any], is_turbo: bool | None = None) -> Self:
        """From a published folder's config, or the merged ones of a diffusers folder. Raises KeyError."""
        return cls(
            name=name,
            is_turbo=bool(config.get("is_turbo")) if is_turbo is None else is_turbo,
            layer=Layer.of(config),
            layers=int(config["num_hidden_layers"]),
            encoder=Layer.of(config, "encoder_"),
            lyric_layers=int(config["num_lyric_encoder_hidden_layers"]),
            timbre_layers=int(config["num_timbre_encoder_hidden_layers"]),
            pooler_layers=int(config["num_attention_pooler_hidden_layers"]),
            channels=int(config["audio_acoustic_hidden_dim"]),
            in_channels=int(config["in_channels"]),
            patch=int(config["patch_size"]),
            window=config.get("sliding_window"),
            text_width=int(config["text_hidden_dim"]),
            pool=int(config["pool_window_size"]),
            fsq_width=int(config["fsq_dim"]),
            fsq_levels=len(config["fsq_input_levels"]),
        )

    @property
    def transformer(self) -> int:
        return self.layers * self.layer.crossed + self.transformer_ends

    @property
    def matrices(self) -> Matrices:
        return self.layer.crossed_matrices.times(self.layers)

    @property
    def transformer_ends(self) -> int:
        """Weights of the transformer outside its layers."""
        width = self.layer.width
        time = _TIME_CHANNELS * width + width + width * width + width + 6 * width * width + 6 * width
        inside = self.in_channels * width * self.patch + width + self.encoder.width * width + width
        outside = width * self.channels * self.patch + self.channels + width + 2 * width
        return 2 * time + inside + outside

    @property
    def conditioning(self) -> int:
        """Weights of condition encoder, audio tokenizer and detokenizer, and the latents of silence."""
        width, layer = self.encoder.width, self.encoder.plain
        words = self.text_width * width + self.text_width * width + 2 * width + self.lyric_layers * layer
        timbre = self.channels * width + 3 * width + self.timbre_layers * layer
        condition = words + timbre + width + _SILENCE_FRAMES * self.channels
        pooler = width * width + 2 * width + self.pooler_layers * layer
        levels = self.fsq_levels
        quantizer = 2 * self.fsq_width * levels + levels + self.fsq_width
        tokenizer = self.channels * width + width + pooler + width + quantizer
        detokenizer = pooler + self.pool * width + width * self.channels + self.channels
        return condition + tokenizer + detokenizer


@dataclass(frozen=True, slots=True)
class QwenSize:
    """A Qwen3: a planner, or the text encoder. `longest` is its context in tokens."""

    name: str
    layer: Layer
    layers: int
    vocabulary: int
    tied: bool = True
    longest: int = 32_768

    @classmethod
    def of(cls, name: str, config: Mapping[str, Any]) -> Self:
        return cls(
            name=name,
            layer=Layer.of(config),
            layers=int(config["num_hidden_layers"]),
            vocabulary=int(config["vocab_size"]),
            tied=bool(config.get("tie_word_embeddings", False)),
            longest=int(config.get("max_position_embeddings", 32_768)),
        )

    @property
    def trunk(self) -> int:
        """PlacedWeights without an output head."""
        return self.vocabulary * self.layer.width + self.layers * self.layer.plain + self.layer.width

    @property
    def weights(self) -> int:
        return self.trunk if self.tied else self.trunk + self.vocabulary * self.layer.width

    @property
    def matrices(self) -> Matrices:
        return self.layer.plain_matrices.times(self.layers)

    @property
    def joined(self) -> tuple[tuple[int, int], ...]:
        """Rows and columns of a layer's matrices, joined where they share an input."""
        layer = self.layer
        queries = layer.heads * layer.head
        return (
            (layer.width, queries + layer.keys_values),
            (queries, layer.width),
            (layer.width, 2 * layer.inner),
            (layer.inner, layer.width),
        )

    @property
    def token(self) -> int:
        return self.layers * self.layer.keys_values


@dataclass(frozen=True, slots=True)
class VaeSize:
    """An Oobleck VAE: `multiples` widen `channels` as `ratios` shorten time, from the sound inwards."""

    channels: int
    decoder_channels: int
    latents: int
    multiples: tuple[int, ...]
    ratios: tuple[int, ...]
    sounds: int = 2

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self:
        return cls(
            channels=int(config["encoder_hidden_size"]),
            decoder_channels=int(config["decoder_channels"]),
            latents=int(config["decoder_input_channels"]),
            multiples=tuple(config["channel_multiples"]),
            ratios=tuple(config["downsampling_ratios"]),
            sounds=int(config["audio_channels"]),
        )

    @property
    def hop(self) -> int:
        hop = 1
        for ratio in self.ratios:
            hop *= ratio
        return hop

    @property
    def weights(self) -> int:
        """Weights of encoder and decoder, without weight normalisation."""
        wide = self.channels * self.multiples[-1]
        encoder = _conv(self.sounds, self.channels, 7) + 2 * wide + _conv(wide, self.channels, 3)
        for narrow, broad, ratio in self.blocks(self.channels):
            encoder += 3 * _unit(narrow) + 2 * narrow + _conv(narrow, broad, 2 * ratio)
        wide = self.decoder_channels * self.multiples[-1]
        decoder = _conv(self.latents, wide, 7) + 2 * self.decoder_channels
        decoder += self.decoder_channels * self.sounds * 7
        for narrow, broad, ratio in self.blocks(self.decoder_channels):
            decoder += 2 * broad + _conv(broad, narrow, 2 * ratio) + 3 * _unit(narrow)
        return encoder + decoder

    def blocks(self, channels: int) -> list[tuple[int, int, int]]:
        """Channels before and after each block, and its ratio, from the sound inwards."""
        widths = [channels * multiple for multiple in (1, *self.multiples)]
        return list(zip(widths, widths[1:], self.ratios, strict=False))


def _conv(inside: int, outside: int, taps: int) -> int:
    return inside * outside * taps + outside


def _unit(channels: int) -> int:
    # A residual unit: two snakes, a convolution of 7 taps and one of 1.
    return 4 * channels + _conv(channels, channels, 7) + _conv(channels, channels, 1)


VARIABLE = "ACESTEP_QUANTIZATION"

_REMEDY = "none, or any after `uv sync --extra quantization`, which installs torchao"

# A row has a scale in float32, and in int8 a zero point, which is 0, of one byte.
_PER_ROW = {"int8": 5, "fp8": 4}

_FLOAT = 4

_PIECE = 2**18  # numbers that the planner unpacks at a time on a CPU (planner.backends.matrices)

_NO_FP8 = ("mps", "xpu")  # Metal has no such type; untested on Intel's GPUs


@dataclass(frozen=True, slots=True)
class Matrices:
    """Matrices that may be packed: their weights and rows, and the weights of the largest."""

    weights: int
    rows: int
    largest: int

    def times(self, count: int) -> Matrices:
        return Matrices(count * self.weights, count * self.rows, self.largest)


@dataclass(frozen=True, slots=True)
class Stored:
    """How weights are stored; `bytes_per_weight` holds for what is not packed, and in computing."""

    bytes_per_weight: int
    quantization: Quantization = "none"

    def size(self, weights: int, matrices: Matrices) -> int:
        if self.quantization == "none":
            return weights * self.bytes_per_weight
        packed = matrices.weights + matrices.rows * _PER_ROW[self.quantization]
        return packed + (weights - matrices.weights) * self.bytes_per_weight

    def unpacking(self, weights: int) -> int:
        """Bytes that torchao needs beside a matrix of so many weights to compute with it."""
        if self.quantization == "none":
            return 0
        if self.quantization == "int8":
            return weights * self.bytes_per_weight
        # To float32, there with the scales in it, and the result.
        return weights * (2 * _FLOAT + (self.bytes_per_weight if self.bytes_per_weight != _FLOAT else 0))

    def workspace(self, matrices: Iterable[tuple[int, int]], by_pieces: bool) -> int:
        """Bytes in which the planner unpacks matrices (rows, columns) one by one, on a CPU by whole rows."""
        if self.quantization == "none":
            return 0
        numbers = (
            columns * (min(rows, max(1, _PIECE // columns)) if by_pieces else rows)
            for rows, columns in matrices
        )
        return max(numbers) * self.bytes_per_weight


def check_quantization(quantization: Quantization, devices: Iterable[str]) -> None:
    """Raises SettingError where models on `devices` (as ACESTEP_DEVICE) cannot be packed so."""
    if quantization == "none":
        return
    if find_spec("torchao") is None:
        raise SettingError(VARIABLE, quantization, _REMEDY)
    for name in devices:
        device = "mps" if name == "auto" and platform.system() == "Darwin" else name
        if quantization == "fp8" and device in _NO_FP8:
            raise SettingError(VARIABLE, quantization, f"int8 or none on {device}")
