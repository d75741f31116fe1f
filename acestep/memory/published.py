"""How large the published models are, which are not always on disk yet.

Owns the settings that their configs have; `sizes` counts by them.
"""

from __future__ import annotations

from acestep.memory.sizes import DitSize, Layer, QwenSize, VaeSize

_QWEN_06 = Layer(1024, 3072, 16, 8, 128)
_TWO_BILLION = Layer(2048, 6144, 16, 8, 128)
_TOKENS = 151_669  # of Qwen3
_WITH_CODES = _TOKENS + 65_535  # the published planners have so many audio codes among their tokens
_NARROW = 128

# model.md gives these sizes; the published files are as large as they make them (docs/decisions/0006).
PLANNERS: tuple[QwenSize, ...] = (
    QwenSize("acestep-5Hz-lm-0.6B", _QWEN_06, 28, _WITH_CODES),
    QwenSize("acestep-5Hz-lm-1.7B", _TWO_BILLION, 28, _WITH_CODES),
    QwenSize("acestep-5Hz-lm-4B", Layer(2560, 9728, 32, 8, 128), 36, _WITH_CODES),
)
TEXT_ENCODER = QwenSize("Qwen3-Embedding-0.6B", _QWEN_06, 28, _TOKENS)
VAE = VaeSize(128, 128, 64, (1, 2, 4, 8, 16), (2, 4, 4, 6, 10))


def published_dit(name: str, is_turbo: bool) -> DitSize:
    """The sizes of a published DiT: 2 B, or XL if its name says so."""
    is_large = "-xl-" in name
    return DitSize(
        name=name,
        is_turbo=is_turbo,
        layer=Layer(2560, 9728, 32, 8, 128) if is_large else _TWO_BILLION,
        layers=32 if is_large else 24,
        encoder=_TWO_BILLION,
        lyric_layers=8,
        timbre_layers=4,
        pooler_layers=2,
        channels=64,
        in_channels=192,
        patch=2,
        window=_NARROW,
        text_width=TEXT_ENCODER.layer.width,
        pool=5,
        fsq_width=_TWO_BILLION.width,
        fsq_levels=6,
    )
