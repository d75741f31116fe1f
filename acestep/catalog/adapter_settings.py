"""What PEFT's config says of an adapter, or what diffusers notes in the header of its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from acestep.catalog.checkpoints import read_json
from acestep.errors import CheckpointError

Kind = Literal["lora", "lokr"]

# Settings of PEFT that change what the tensors mean.
_OTHER_KINDS = (
    *("use_qalora", "use_bdlora", "kasa_config", "monteclora_config", "velora_config", "arrow_config"),
    *("alora_invocation_tokens", "layer_replication"),
)
# Ways to begin a training that leave the model's own weights alone; others (PiSSA, OLoRA, …) change them.
_HARMLESS_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True, slots=True)
class AdapterSettings:
    # What a file's own settings say; patterns are matched against the layers' stored names.
    alpha: float | None  # None: as large as the rank
    alpha_pattern: Mapping[str, float]
    rank: int | None  # None: whatever the tensors say
    rank_pattern: Mapping[str, int]
    use_rslora: bool = False
    use_dora: bool = False
    kind: Kind = "lora"
    own: Mapping[str, int] = field(default_factory=dict)  # of a LoKr


def peft_settings(path: Path) -> AdapterSettings:
    config = read_json(path)
    kind = str(config.get("peft_type")).upper()
    if kind == "LOKR":
        return _lokr_settings(config, str(path))
    if kind != "LORA":
        raise CheckpointError(f"{path}: peft_type {kind} cannot be used; allowed: LORA, LOKR")
    return _settings(config, str(path))


def _lokr_settings(config: Mapping[str, Any], source: str) -> AdapterSettings:
    plain = {key: config.get(key) for key in ("r", "rank_pattern", "alpha_pattern")}
    settings = _settings({**plain, "lora_alpha": config.get("alpha")}, source)
    factor = config.get("decompose_factor", -1)
    if settings.rank is None or settings.alpha is None or type(factor) is not int:
        raise CheckpointError(f"{source}: r, alpha and decompose_factor must be numbers")
    if config.get("use_effective_conv2d"):
        raise CheckpointError(f"{source}: use_effective_conv2d cannot be used")
    own = {"decompose_both": bool(config.get("decompose_both")), "decompose_factor": factor}
    return replace(settings, kind="lokr", own=own)


def diffusers_settings(metadata: Mapping[str, str], source: str) -> AdapterSettings:
    # What diffusers notes in the file's header, if it is recent; without it alpha is the rank.
    try:
        noted = dict(json.loads(metadata.get("lora_adapter_metadata", "{}")))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{source}: its metadata cannot be read ({error})") from error
    settings = {key.removeprefix("transformer."): value for key, value in noted.items()}
    return _settings(settings, f"{source}, metadata")


def _settings(config: Mapping[str, Any], source: str) -> AdapterSettings:
    start = config.get("init_lora_weights")
    if start not in _HARMLESS_STARTS:
        raise CheckpointError(
            f"{source}: init_lora_weights {start!r} changes the model's own weights; convert the adapter "
            "to a plain LoRA"
        )
    if kind := next((setting for setting in _OTHER_KINDS if config.get(setting)), None):
        raise CheckpointError(f"{source}: {kind} makes it more than a plain LoRA, and cannot be used")
    try:
        alpha, rank = config.get("lora_alpha"), config.get("r")
        alphas, ranks = config.get("alpha_pattern") or {}, config.get("rank_pattern") or {}
        return AdapterSettings(
            alpha=None if alpha is None else float(alpha),
            alpha_pattern={str(pattern): float(value) for pattern, value in alphas.items()},
            rank=None if rank is None else int(rank),
            rank_pattern={str(pattern): int(value) for pattern, value in ranks.items()},
            use_rslora=bool(config.get("use_rslora")),
            use_dora=bool(config.get("use_dora")),
        )
    except (AttributeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{source}: rank or alpha cannot be read ({error})") from error
