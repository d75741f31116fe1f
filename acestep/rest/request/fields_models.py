"""The wire fields about adapters (LoRA): of a song, and of the routes below /v1/lora."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, WithJsonSchema

from acestep.domain.song import MAX_ADAPTER_SCALE, MAX_ADAPTERS, AdapterUse
from acestep.rest.request.wire_types import (
    MAX_LIST_TEXT,
    Flag,
    OptionalFlag,
    OptionalNumber,
    OptionalText,
    Text,
    Whole,
    from_json,
    read_number,
    read_text,
    reader,
    wire,
)

MAX_NAME = 200  # characters
_SCALE = AdapterUse("").scale


def read_adapters(value: object) -> tuple[AdapterUse, ...]:
    """Read a name, an object {name, scale}, or a list of these; also from a text that holds them as JSON."""
    found = from_json(value, ("[", "{"))
    uses = tuple(_adapter(item) for item in (found if isinstance(found, list) else [found]))
    if len(uses) > MAX_ADAPTERS or len({use.name for use in uses}) < len(uses):
        raise ValueError
    return uses


def _adapter(item: object) -> AdapterUse:
    parts = item if isinstance(item, dict) else {"name": item}
    if not isinstance(parts.get("name"), str) or parts.keys() - {"name", "scale"}:
        raise TypeError
    name, scale = read_text(parts["name"]).strip(), read_number(parts.get("scale", _SCALE))
    if not 0 < len(name) <= MAX_NAME or not 0.0 <= scale <= MAX_ADAPTER_SCALE:
        raise ValueError
    return AdapterUse(name, scale)


_NAMED = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "scale": {"type": "number", "minimum": 0, "maximum": MAX_ADAPTER_SCALE, "default": _SCALE},
    },
    "required": ["name"],
}

_ONE = [{"type": "string"}, _NAMED]

Adapters = Annotated[
    tuple[AdapterUse, ...] | None,
    reader(read_adapters, MAX_LIST_TEXT, MAX_ADAPTERS),
    WithJsonSchema(
        {
            "anyOf": [
                *_ONE,
                {"type": "array", "items": {"anyOf": _ONE}, "maxItems": MAX_ADAPTERS},
                {"type": "null"},
            ]
        }
    ),
]


class LoraFields(BaseModel):
    lora: Adapters = wire(
        None,
        "loras",
        about="Adapters of the songs: a name (see GET /v1/lora/status), an object with a scale, or a list "
        "of these. []: none. Null: the adapter of POST /v1/lora/load, if one is loaded. A path in "
        "ACESTEP_LORA_DIR, or an absolute one in ACESTEP_LORA_ROOTS, is a name too. LoRA (with DoRA) or "
        "LoKr, but not both in one request.",
        example=[{"name": "city-pop", "scale": 0.8}],
        allowed=f"the name of an adapter, or a list of at most {MAX_ADAPTERS} different names or objects "
        f"{{name, scale}}, scale from 0 to {MAX_ADAPTER_SCALE:g}",
    )


class LoadLora(BaseModel):
    """The adapter for requests that name none."""

    lora_path: Text = wire(
        "",
        max_length=1_000,
        example="city-pop",
        about="Folder of the adapter: relative to ACESTEP_LORA_DIR, or an absolute path inside it or in a "
        "folder of ACESTEP_LORA_ROOTS.",
    )
    adapter_name: OptionalText = wire(
        None,
        max_length=MAX_NAME,
        example="pop",
        about="Name for the adapter. Null: the name of its folder.",
    )


class ToggleLora(BaseModel):
    """Turns the active adapter on or off."""

    use_lora: OptionalFlag = wire(None, example=True, about="Whether the active adapter is on.")


class ScaleLora(BaseModel):
    """The scale of an adapter."""

    scale: OptionalNumber = wire(None, ge=0, le=1, example=0.8, about="0: off; 1: as trained.")
    adapter_name: OptionalText = wire(
        None, max_length=MAX_NAME, example="pop", about="Name of the adapter. Null: the active one."
    )


SLOTS = 3  # as many as there are variables ACESTEP_CONFIG_PATH, …2 and …3

_MAX_NAME = 200  # characters


class InitModel(BaseModel):
    """The model for a slot, and the planner."""

    model: OptionalText = wire(
        None,
        max_length=_MAX_NAME,
        example="acestep-v15-base",
        about="Model to load: one on disk (see GET /v1/model_inventory), or a published one, which is "
        "downloaded. Null: load the model of the slot again.",
    )
    slot: Whole = wire(
        1,
        ge=1,
        le=SLOTS,
        example=2,
        about="1: the default model; 2 and 3: models for requests that name them.",
    )
    init_llm: Flag = wire(
        False,
        example=True,
        about="Load the configured planner (5 Hz language model) too, if none is loaded.",
    )
    lm_model_path: OptionalText = wire(
        None,
        max_length=_MAX_NAME,
        example="acestep-5Hz-lm-1.7B",
        about="Name of the planner that replaces the loaded one.",
    )
