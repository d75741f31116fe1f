"""The sizes of the chosen models, read from their JSON configs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from acestep.catalog.checkpoints import Checkpoint, Choice, read_json
from acestep.catalog.planner_choice import PlannerChoice
from acestep.errors import CheckpointError
from acestep.memory.plan import Sizes
from acestep.memory.sizes import DitSize, Layer, QwenSize, VaeSize

Found = tuple[DitSize, QwenSize, VaeSize | None]


def sizes_of(choices: Sequence[Choice], planner: PlannerChoice) -> Sizes | None:
    """The sizes of these models; None where a config lacks them: loading reports what is wrong with it."""
    try:
        found = [_model(choice) for choice in choices]
        return Sizes(
            dits=tuple(dit for dit, _, _ in found),
            text=max((text for _, text, _ in found), key=lambda text: text.trunk),
            vae=next((vae for _, _, vae in found if vae), None),
            planners=(_planner(planner),) if planner.name else (),
        )
    except (KeyError, ValueError, TypeError, CheckpointError):
        return None


def dit_size(choice: Choice) -> DitSize | None:
    sizes = sizes_of([choice], PlannerChoice())
    return sizes.dits[0] if sizes else None


def planner_size(choice: PlannerChoice) -> QwenSize:
    """Raises CheckpointError where the config does not give the size."""
    try:
        return _planner(choice)
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"The config of {choice.name} does not say how large it is: {error}") from error


def _planner(choice: PlannerChoice) -> QwenSize:
    if choice.folder is not None:
        return QwenSize.of(choice.name, read_json(choice.folder / "config.json"))
    return next(planner for planner in PLANNERS if planner.name == choice.name)


def _model(choice: Choice) -> Found:
    if choice.checkpoint is None:
        return published_dit(choice.name, choice.is_turbo), TEXT_ENCODER, VAE
    return _on_disk(choice.checkpoint)


def _on_disk(checkpoint: Checkpoint) -> Found:
    config = read_json(checkpoint.dit / "config.json") if checkpoint.layout == "published" else None
    dit = DitSize.of(checkpoint.name, config or _merged(checkpoint.dit), checkpoint.is_turbo)
    text = QwenSize.of("text encoder", read_json(checkpoint.text_encoder / "config.json"))
    vae = read_json(checkpoint.vae / "config.json")
    return dit, text, VaeSize.of(vae) if vae.get("_class_name") == "AutoencoderOobleck" else None


def _merged(folder: Path) -> dict[str, Any]:
    # The configs of a diffusers folder in one, as a published folder has them.
    transformer, encoder, tokenizer = (
        read_json(folder / part / "config.json")
        for part in ("transformer", "condition_encoder", "audio_tokenizer")
    )
    sizes = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
    return tokenizer | encoder | transformer | {f"encoder_{size}": encoder[size] for size in sizes}


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
