"""The wire fields of the planner (the 5 Hz language model), for songs and for drafts, and of audio codes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, WithJsonSchema

from acestep.domain.song import MAX_CODES, MAX_SEED, PlannerOptions
from acestep.rest.request.fields_song import MAX_CAPTION
from acestep.rest.request.wire_types import (
    UNDECIDED_NUMBERS,
    WORD,
    Codes,
    Flag,
    Number,
    OptionalText,
    Support,
    Text,
    Whole,
    read_number,
    read_whole,
    reader,
    wire,
)

_DEFAULT = PlannerOptions()


def read_top_p(value: object) -> float:
    share = read_number(value)
    if share in UNDECIDED_NUMBERS:
        return _DEFAULT.top_p
    if share < 0.0:
        raise ValueError
    return min(share, 1.0)


def read_top_k(value: object) -> int | None:
    return None if read_number(value) in UNDECIDED_NUMBERS else read_whole(value)


TopP = Annotated[float, reader(read_top_p), WithJsonSchema({"type": "number", "minimum": -1})]

TopK = Annotated[int | None, reader(read_top_k)]

OPTIONAL = Support.OPTIONAL


class PlannerFields(BaseModel):
    lm_temperature: Number = wire(
        _DEFAULT.temperature, support=OPTIONAL, ge=0, le=2, about="The planner's temperature.", example=0.7
    )
    thinking: Flag = wire(
        _DEFAULT.thinking,
        support=Support.PLANNER,
        example=True,
        about="The planner writes audio codes for the song first.",
    )
    sample_mode: Flag = wire(
        _DEFAULT.sample_mode,
        "sampleMode",
        support=Support.PLANNER,
        example=True,
        about="The planner writes caption, lyrics and metadata.",
    )
    sample_query: Text = wire(
        _DEFAULT.sample_query,
        "sampleQuery",
        "description",
        "desc",
        support=Support.PLANNER,
        free_text=True,
        max_length=MAX_CAPTION,
        example="a quiet song about rain",
        about="A sentence from which the planner writes the song.",
    )
    use_format: Flag = wire(
        _DEFAULT.use_format,
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
        about="Return the planner's metadata only, no audio.",
    )
    full_analysis_only: Flag = wire(
        False,
        "fullAnalysisOnly",
        support=Support.PLANNER,
        example=True,
        about="Return the planner's description of the source audio only, no new audio.",
    )
    use_cot_caption: Flag = wire(
        _DEFAULT.use_cot_caption,
        "cot_caption",
        "cot-caption",
        support=Support.OPTIONAL,
        example=False,
        about="The planner may rewrite the caption.",
    )
    use_cot_language: Flag = wire(
        _DEFAULT.use_cot_language,
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
        about="The caption is formatted already.",
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
    lm_cfg_scale: Number = wire(
        _DEFAULT.guidance_scale,
        support=OPTIONAL,
        ge=0,
        le=20,
        about="The planner's guidance scale.",
        example=2.0,
    )
    lm_top_k: TopK = wire(
        _DEFAULT.top_k,
        support=OPTIONAL,
        neutral=(0,),
        ge=-1,
        le=10_000,
        about="Top-k; null, 0 or -1: off.",
        example=50,
    )
    lm_top_p: TopP = wire(
        _DEFAULT.top_p,
        support=OPTIONAL,
        about="Top-p. 1 or more: off. 0 or -1: the default.",
        example=0.95,
        allowed="a number from 0 to 1; more than 1 is off",
    )
    lm_repetition_penalty: Number = wire(
        _DEFAULT.repetition_penalty, support=OPTIONAL, ge=0.1, le=10, about="Repetition penalty.", example=1.1
    )
    lm_negative_prompt: Text = wire(
        _DEFAULT.negative_prompt,
        support=OPTIONAL,
        free_text=True,
        max_length=MAX_CAPTION,
        about="What the planner avoids.",
        example="noise",
    )
    lm_model_path: OptionalText = wire(
        None,
        max_length=1_000,
        example="acestep-5Hz-lm-1.7B",
        about="Name of the planner. With ACESTEP_ON_DEMAND_MODEL_LOAD, a planner on disk is loaded. If it "
        "is not available, the configured planner runs, with a warning.",
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
        about="The planner's output is always constrained to its format.",
    )
    constrained_decoding_debug: Flag = wire(
        False,
        "constrainedDecodingDebug",
        support=Support.INERT,
        example=True,
        about="A log switch of the original server.",
    )


class CodeFields(BaseModel):
    audio_code_string: Codes = wire(
        (),
        "audioCodeString",
        "audio_codes",
        example="<|audio_code_12|><|audio_code_7|>",
        about="Audio codes, five a second, as in results: tokens, whole numbers, or a list of either.",
        allowed="audio codes like '<|audio_code_12|><|audio_code_7|>', or whole numbers separated by "
        f"commas or spaces, at most {MAX_CODES}",
    )


class DraftFields(PlannerSamplingFields):
    temperature: Number = wire(
        _DEFAULT.temperature, "lm_temperature", ge=0, le=2, about="The planner's temperature.", example=0.7
    )
    seed: Whole = wire(
        -1, ge=-1, le=MAX_SEED, about="The same seed gives the same draft. -1: random.", example=42
    )
