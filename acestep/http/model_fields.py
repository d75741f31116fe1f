"""The wire fields of the route that changes models while the server runs.

Owns their names and ranges. Knows nothing of which models there are.
"""

from __future__ import annotations

from pydantic import BaseModel

from acestep.http.fields import Flag, OptionalText, Whole, wire

SLOTS = 3  # as many as there are variables ACESTEP_CONFIG_PATH, …2 and …3
_MAX_NAME = 200  # characters


class InitModel(BaseModel):
    """Which model is to be in which slot."""

    model: OptionalText = wire(
        None,
        max_length=_MAX_NAME,
        example="acestep-v15-base",
        about="Model to load: GET /v1/model_inventory lists what lies on disk, published ones are "
        "downloaded. Null: the one that is in the slot, again.",
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
        about="Load a planner (5 Hz language model) too, if there is none: the one that the settings mean.",
    )
    lm_model_path: OptionalText = wire(
        None,
        max_length=_MAX_NAME,
        example="acestep-5Hz-lm-1.7B",
        about="Planner to load in place of the one that is there, by its name.",
    )
