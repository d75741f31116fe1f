from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LayerConfig:
    """The layers of one module; fields have the names of config.json."""

    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rope_theta: float
    rms_norm_eps: float
    sliding_window: int | None
    attention_bias: bool = False
    layer_types: tuple[str, ...] = ()  # none: sliding and full ones take turns

    def windows(self, layers: int) -> tuple[int | None, ...]:
        """How far each layer attends to both sides; None: to all."""
        kinds = self.layer_types or ("sliding_attention", "full_attention") * layers
        return tuple(self.sliding_window if kind == "sliding_attention" else None for kind in kinds[:layers])


@dataclass(frozen=True, slots=True)
class SynthesizerConfig:
    dit: LayerConfig
    encoder: LayerConfig  # of lyrics and timbre
    pooler: LayerConfig  # of the audio tokenizer and detokenizer
    dit_layers: int
    lyric_layers: int
    timbre_layers: int
    pooler_layers: int
    patch_size: int  # latent frames of a patch
    latent_channels: int
    mask_channels: int  # of the chunk mask in the DiT's input
    text_width: int
    frames_per_code: int
    code_levels: tuple[int, ...]
    is_turbo: bool = False
    model_version: str = ""
    reference_frames: int = 750  # latent frames of a timbre reference, 30 s in all published models

    @property
    def in_channels(self) -> int:
        """Of the DiT: source latents, chunk mask, noisy latents."""
        return 2 * self.latent_channels + self.mask_channels

    @property
    def code_count(self) -> int:
        return math.prod(self.code_levels)
