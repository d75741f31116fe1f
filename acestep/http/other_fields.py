"""The wire fields that this server reads but does not serve yet: the planner's, other tasks', newer ones.

Owns their names, aliases, ranges and neutral values; `Support` says by which rule each is refused. A field
moves to `http.song_fields` when something serves it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel

from acestep.http.fields import (
    WORD,
    Flag,
    Names,
    Number,
    Object,
    OptionalFlag,
    OptionalNumber,
    OptionalText,
    OptionalWhole,
    Support,
    Text,
    Whole,
    wire,
)
from acestep.http.song_fields import MAX_CAPTION

UNSUPPORTED, INERT, IGNORED = Support.UNSUPPORTED, Support.INERT, Support.IGNORED
MAX_CODES = 100_000  # characters: 600 s x 5 codes of up to 22 characters, and room


class PlannerFields(BaseModel):
    """What the planner (the 5 Hz language model) is asked to do."""

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
        about="Metadata only, no audio.",
    )
    full_analysis_only: Flag = wire(
        False,
        "fullAnalysisOnly",
        support=Support.PLANNER,
        example=True,
        about="Describe the source audio, no new audio.",
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
        support=INERT,
        example=True,
        about="The caption has been formatted already.",
    )
    allow_lm_batch: Flag = wire(
        True,
        "allowLmBatch",
        "parallel_thinking",
        support=INERT,
        example=False,
        about="Songs of a request are always planned together.",
    )


class PlannerSamplingFields(BaseModel):
    """How the planner samples."""

    lm_temperature: Number = wire(0.85, ge=0, le=2, about="Temperature.", example=0.7)
    lm_cfg_scale: Number = wire(2.5, ge=0, le=20, about="Guidance scale.", example=2.0)
    lm_top_k: OptionalWhole = wire(None, ge=0, le=10_000, about="Top-k; null or 0: off.", example=50)
    lm_top_p: Number = wire(0.9, gt=0, le=1, about="Top-p; 1: off.", example=0.95)
    lm_repetition_penalty: Number = wire(1.0, ge=0.1, le=10, about="Repetition penalty.", example=1.1)
    lm_negative_prompt: Text = wire(
        "NO USER INPUT",
        free_text=True,
        max_length=MAX_CAPTION,
        about="What to stay away from.",
        example="noise",
    )
    lm_model_path: OptionalText = wire(
        None,
        support=IGNORED,
        max_length=1_000,
        example="acestep-5Hz-lm-1.7B",
        about="The server decides which planner runs.",
    )
    lm_backend: Annotated[Literal["vllm", "pt", "mlx"], WORD] = wire(
        "vllm",
        support=IGNORED,
        example="pt",
        about="The server decides how the planner runs.",
    )
    constrained_decoding: Flag = wire(
        True,
        "constrainedDecoding",
        "constrained",
        support=IGNORED,
        example=False,
        about="The planner's answers are always held to their format.",
    )
    constrained_decoding_debug: Flag = wire(
        False,
        "constrainedDecodingDebug",
        support=INERT,
        example=True,
        about="A switch of the original's log.",
    )


class SourceFields(BaseModel):
    """Audio that goes in, and what other tasks do with it."""

    reference_audio_path: OptionalText = wire(
        None,
        "ref_audio_path",
        "referenceAudioPath",
        "refAudioPath",
        support=UNSUPPORTED,
        max_length=1_000,
        example="reference.wav",
        about="Audio whose timbre is taken.",
    )
    src_audio_path: OptionalText = wire(
        None,
        "ctx_audio_path",
        "sourceAudioPath",
        "srcAudioPath",
        "ctxAudioPath",
        support=UNSUPPORTED,
        max_length=1_000,
        example="source.wav",
        about="Audio that is worked on.",
    )
    audio_code_string: Text = wire(
        "",
        "audioCodeString",
        "audio_codes",
        support=UNSUPPORTED,
        free_text=True,
        max_length=MAX_CODES,
        about="Audio codes to render.",
        example="<|audio_code_1|>",
    )
    repainting_start: Number = wire(0.0, support=UNSUPPORTED, about="Seconds.", example=5.0)
    repainting_end: OptionalNumber = wire(
        None,
        support=UNSUPPORTED,
        neutral=(0.0, -1.0),
        about="Seconds; null, 0 or -1: the end.",
        example=15.0,
    )
    audio_cover_strength: Number = wire(
        1.0,
        "audioCoverStrength",
        "cover_strength",
        "coverStrength",
        support=UNSUPPORTED,
        ge=0,
        le=1,
        about="How close a cover stays to its source.",
        example=0.5,
    )
    cover_noise_strength: Number = wire(
        0.0,
        "coverNoiseStrength",
        support=UNSUPPORTED,
        ge=0,
        le=1,
        example=0.5,
        about="How much of the source's sound a cover starts from.",
    )
    global_caption: Text = wire(
        "",
        support=UNSUPPORTED,
        free_text=True,
        max_length=MAX_CAPTION,
        about="Caption of the whole for lego.",
        example="a rock song",
    )
    track_name: Text = wire(
        "",
        "trackName",
        support=UNSUPPORTED,
        max_length=100,
        about="Track for extract and lego.",
        example="drums",
    )
    track_classes: Names = wire(
        (),
        "trackClasses",
        "instruments",
        support=UNSUPPORTED,
        about="Tracks for complete.",
        example=["drums"],
        allowed="a name or a list of names",
    )
    chunk_mask_mode: Annotated[Literal["auto", "explicit"], WORD] = wire(
        "auto",
        support=UNSUPPORTED,
        about="How the mask is made.",
        example="explicit",
    )
    repaint_mode: Annotated[Literal["conservative", "balanced", "aggressive"], WORD] = wire(
        "balanced",
        support=UNSUPPORTED,
        about="How freely a repaint may move.",
        example="aggressive",
    )
    repaint_strength: Number = wire(
        0.5,
        support=UNSUPPORTED,
        ge=0,
        le=1,
        about="How strongly a repaint may move.",
        example=0.7,
    )
    repaint_latent_crossfade_frames: Whole = wire(
        10,
        support=UNSUPPORTED,
        ge=0,
        about="Frames of cross-fade.",
        example=5,
    )
    repaint_wav_crossfade_sec: Number = wire(
        0.0,
        support=UNSUPPORTED,
        ge=0,
        about="Seconds of cross-fade.",
        example=0.5,
    )
    extract_codes_only: Flag = wire(
        False,
        "extractCodesOnly",
        support=UNSUPPORTED,
        about="Codes of the source audio only.",
        example=True,
    )


class NewerSamplerFields(BaseModel):
    """Sampler settings that later versions of the original added."""

    guidance_variant: Annotated[str, WORD] = wire(
        "apg_classic",
        "guidanceVariant",
        support=UNSUPPORTED,
        max_length=100,
        about="Kind of guidance.",
        example="cfg",
    )
    guidance_params: Object = wire(
        {},
        "guidanceParams",
        support=UNSUPPORTED,
        about="Settings of that kind.",
        example={"eta": 0.5},
        allowed="an object, or a string that holds one as JSON",
    )
    sampler_mode: Annotated[Literal["euler", "heun"], WORD] = wire(
        "euler",
        "samplerMode",
        support=UNSUPPORTED,
        about="Integrator.",
        example="heun",
    )
    velocity_norm_threshold: Number = wire(
        0.0,
        "velocityNormThreshold",
        support=UNSUPPORTED,
        about="Cap on the velocity's norm.",
        example=1.0,
    )
    velocity_ema_factor: Number = wire(
        0.0,
        "velocityEmaFactor",
        support=UNSUPPORTED,
        about="Smoothing of the velocity.",
        example=0.1,
    )
    latent_shift: Number = wire(
        0.0,
        "latentShift",
        support=UNSUPPORTED,
        about="Added to the latents before decoding.",
        example=0.1,
    )
    latent_rescale: Number = wire(
        1.0,
        "latentRescale",
        support=UNSUPPORTED,
        about="Multiplies the latents before decoding.",
        example=0.9,
    )
    eta: Number = wire(0.0, support=UNSUPPORTED, about="Parallel part kept by the guidance.", example=0.1)
    momentum: Number = wire(-0.75, support=UNSUPPORTED, about="Momentum of the guidance.", example=-0.5)
    dcw_enabled: OptionalFlag = wire(
        None,
        support=UNSUPPORTED,
        neutral=(False,),
        about="Correction in the wavelet domain.",
        example=True,
    )
    dcw_mode: Annotated[Literal["low", "high", "double", "pix"], WORD] = wire(
        "double",
        support=UNSUPPORTED,
        about="Bands that are corrected.",
        example="low",
    )
    dcw_scaler: Number = wire(0.05, support=UNSUPPORTED, about="Strength.", example=0.1)
    dcw_high_scaler: Number = wire(0.02, support=UNSUPPORTED, about="Strength in the high band.", example=0.1)
    dcw_wavelet: Annotated[str, WORD] = wire(
        "haar",
        support=UNSUPPORTED,
        max_length=100,
        about="Wavelet.",
        example="db4",
    )
    wave: Text = wire(
        "", support=INERT, free_text=True, about="A key of the answers, sent back.", example="x"
    )
