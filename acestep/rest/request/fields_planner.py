"""The wire fields of the planner (the 5 Hz language model), for songs and for drafts, and of audio codes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel

from acestep.domain.song import MAX_CODES, MAX_SEED
from acestep.rest.request.fields_song import MAX_CAPTION
from acestep.rest.request.wire_types import (
    WORD,
    Codes,
    Flag,
    Number,
    OptionalText,
    OptionalWhole,
    Support,
    Text,
    Whole,
    wire,
)

OPTIONAL = Support.OPTIONAL


class PlannerFields(BaseModel):
    """What the planner (the 5 Hz language model) is asked to do for a song."""

    lm_temperature: Number = wire(
        0.85, support=OPTIONAL, ge=0, le=2, about="The planner's temperature.", example=0.7
    )
    thinking: Flag = wire(
        False,
        support=Support.PLANNER,
        example=True,
        about="The planner writes audio codes for the song first.",
    )
    sample_mode: Flag = wire(
        False,
        "sampleMode",
        support=Support.PLANNER,
        example=True,
        about="The planner invents caption, lyrics and metadata.",
    )
    sample_query: Text = wire(
        "",
        "sampleQuery",
        "description",
        "desc",
        support=Support.PLANNER,
        free_text=True,
        max_length=MAX_CAPTION,
        example="a quiet song about rain",
        about="The planner invents the song from this sentence.",
    )
    use_format: Flag = wire(
        False,
        "useFormat",
        "format",
        support=Support.PLANNER,
        example=True,
        about="The planner rewrites caption and lyrics first. (For an audio format, send audio_format.)",
    )
    analysis_only: Flag = wire(
        False,
        "analysisOnly",
        support=Support.PLANNER,
        example=True,
        about="The planner's metadata only, no audio.",
    )
    full_analysis_only: Flag = wire(
        False,
        "fullAnalysisOnly",
        support=Support.PLANNER,
        example=True,
        about="The planner describes the source audio; no new audio.",
    )
    use_cot_caption: Flag = wire(
        True,
        "cot_caption",
        "cot-caption",
        support=Support.OPTIONAL,
        example=False,
        about="The planner may rewrite the caption.",
    )
    use_cot_language: Flag = wire(
        True,
        "cot_language",
        "cot-language",
        support=Support.OPTIONAL,
        example=False,
        about="The planner may detect the language.",
    )
    is_format_caption: Flag = wire(
        False,
        "isFormatCaption",
        support=Support.INERT,
        example=True,
        about="The caption has been formatted already.",
    )
    allow_lm_batch: Flag = wire(
        True,
        "allowLmBatch",
        "parallel_thinking",
        support=Support.INERT,
        example=False,
        about="Songs of a request are always planned together.",
    )


class PlannerSamplingFields(BaseModel):
    """How the planner samples, whatever it is asked for; its temperature has a name of its own in each."""

    lm_cfg_scale: Number = wire(2.5, support=OPTIONAL, ge=0, le=20, about="Guidance scale.", example=2.0)
    lm_top_k: OptionalWhole = wire(
        None, support=OPTIONAL, neutral=(0,), ge=0, le=10_000, about="Top-k; null or 0: off.", example=50
    )
    lm_top_p: Number = wire(0.9, support=OPTIONAL, gt=0, le=1, about="Top-p; 1: off.", example=0.95)
    lm_repetition_penalty: Number = wire(
        1.0, support=OPTIONAL, ge=0.1, le=10, about="Repetition penalty.", example=1.1
    )
    lm_negative_prompt: Text = wire(
        "NO USER INPUT",
        support=OPTIONAL,
        free_text=True,
        max_length=MAX_CAPTION,
        about="What to stay away from.",
        example="noise",
    )
    lm_model_path: OptionalText = wire(
        None,
        max_length=1_000,
        example="acestep-5Hz-lm-1.7B",
        about="Name of the planner. With ACESTEP_ON_DEMAND_MODEL_LOAD, one that lies on disk is loaded. "
        "Where it cannot be had, the server's own runs, with a warning.",
    )
    lm_backend: Annotated[Literal["vllm", "pt", "mlx"], WORD] = wire(
        "vllm",
        support=Support.IGNORED,
        example="pt",
        about="The server decides how the planner runs.",
    )
    constrained_decoding: Flag = wire(
        True,
        "constrainedDecoding",
        "constrained",
        support=Support.IGNORED,
        example=False,
        about="The planner's answers are always held to their format.",
    )
    constrained_decoding_debug: Flag = wire(
        False,
        "constrainedDecodingDebug",
        support=Support.INERT,
        example=True,
        about="A switch of the original's log.",
    )


class CodeFields(BaseModel):
    """Audio codes that the client brings along."""

    audio_code_string: Codes = wire(
        (),
        "audioCodeString",
        "audio_codes",
        example="<|audio_code_12|><|audio_code_7|>",
        about="Audio codes, five a second, as in results: tokens, whole numbers, or a list of either.",
        allowed="audio codes like '<|audio_code_12|><|audio_code_7|>', or whole numbers between commas or "
        f"spaces, {MAX_CODES} at most",
    )


class DraftFields(PlannerSamplingFields):
    """How the planner samples where it is asked for a draft."""

    temperature: Number = wire(
        0.85, "lm_temperature", ge=0, le=2, about="The planner's temperature.", example=0.7
    )
    seed: Whole = wire(
        -1, ge=-1, le=MAX_SEED, about="The same seed gives the same draft. -1: random.", example=42
    )
