"""How large the models are that were chosen, before they are loaded.

Owns where the settings of a model are: in the folders of either layout, or for one that is yet to be
downloaded among the published sizes. Reads small JSON files, never weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from acestep.checkpoints import Checkpoint, Choice, read_json
from acestep.errors import CheckpointError
from acestep.memory.plan import Sizes
from acestep.memory.published import PLANNERS, TEXT_ENCODER, VAE, published_dit
from acestep.memory.sizes import DitSize, QwenSize, VaeSize
from acestep.planners import PlannerChoice

Found = tuple[DitSize, QwenSize, VaeSize | None]


def sizes_of(choices: Sequence[Choice], planner: PlannerChoice) -> Sizes | None:
    """The sizes of these models; None where a config does not say: loading says what is wrong with it."""
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
    """The size of a model's DiT; None as `sizes_of`."""
    sizes = sizes_of([choice], PlannerChoice())
    return sizes.dits[0] if sizes else None


def planner_size(choice: PlannerChoice) -> QwenSize:
    """The size of a planner. Raises CheckpointError where its config does not say."""
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
    """The configs of a diffusers folder as a published folder has them in one."""
    transformer, encoder, tokenizer = (
        read_json(folder / part / "config.json")
        for part in ("transformer", "condition_encoder", "audio_tokenizer")
    )
    sizes = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
    return tokenizer | encoder | transformer | {f"encoder_{size}": encoder[size] for size in sizes}
