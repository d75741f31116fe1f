"""What a result says of a finished song: its recipe and its analysis."""

from __future__ import annotations

from collections.abc import Sequence

from acestep.domain.analysis import Analysis, TimedLine
from acestep.domain.song import (
    Goal,
    OutputOptions,
    Sampling,
    Song,
    SongPlan,
    SongRequest,
    Tuning,
    WaveletCorrection,
)
from acestep.limits import WINDOW_TASKS
from acestep.rest.response.schemas import LineItem, LoudnessItem, WordItem
from acestep.rest.spelling import UNDECIDED, JsonObject


def recipe(song: Song, request: SongRequest) -> JsonObject | None:
    """Return a body for /release_task that makes the song again; None for a plan without a song.

    The same model on the same machine makes the same samples. Source and reference audio must be sent again.
    """
    if not song.file:
        return None
    plan = song.plan
    body = {
        "prompt": plan.caption,
        "lyrics": plan.lyrics,
        "vocal_language": plan.language,
        "bpm": plan.bpm,
        "key_scale": plan.key_scale,
        "time_signature": plan.time_signature,
        # The source determines the duration again.
        "audio_duration": None if _is_as_long_as_source(request) else plan.duration,
        "seed": plan.seed,
        "use_random_seed": False,
        "batch_size": 1,
        "model": song.dit_model,
        "task_type": plan.task_type,
        "instruction": plan.instruction,
        "audio_format": song.audio_format,
        **_sampling(plan.sampling),
        **_task(request),
        **_output(request),
        **({"retake_seed": plan.retake.seed, "retake_variance": plan.retake.variance} if plan.retake else {}),
        "lora": [{"name": use.name, "scale": use.scale} for use in plan.adapters],
        # The fields above hold what the planner decided.
        **dict.fromkeys(("thinking", "use_cot_caption", "use_cot_language"), False),
    }
    # Numbers take a third of the characters of tokens.
    codes = {"audio_code_string": ",".join(map(str, plan.audio_codes))} if plan.audio_codes else {}
    return body | codes


def _is_as_long_as_source(request: SongRequest) -> bool:
    return bool(request.task.source) and not request.task.may_change_length


def _output(request: SongRequest) -> JsonObject:
    output, usual = request.output, OutputOptions()
    level: JsonObject = (
        {"enable_normalization": False} if output.peak_db is None else {"normalization_db": output.peak_db}
    )
    rest = {
        "fade_in_duration": (output.fade_in, usual.fade_in),
        "fade_out_duration": (output.fade_out, usual.fade_out),
        "mp3_bitrate": (output.mp3_bitrate, None),
        "mp3_sample_rate": (output.mp3_sample_rate, None),
    }
    changed = {name: value for name, (value, default) in rest.items() if value != default}
    return changed | (level if output.peak_db != usual.peak_db else {})


def _task(request: SongRequest) -> JsonObject:
    task = request.task
    fields: JsonObject = {}
    if request.task_type in WINDOW_TASKS:
        fields |= {
            "repainting_start": task.start,
            "repainting_end": task.end,
            "repaint_latent_crossfade_frames": task.crossfade_frames,
            "repaint_wav_crossfade_sec": task.crossfade_seconds,
        }
        # 1 is the default.
        fields |= {"repaint_strength": 1.0 - task.injection} if task.injection else {}
    fields |= {"no_fsq": True} if task.follows_latents else {}
    if task.morph:
        fields |= {
            "flow_edit_morph": True,
            "flow_edit_source_caption": task.source_caption,
            "flow_edit_source_lyrics": task.source_lyrics,
            "flow_edit_n_min": task.morph.end,
            "flow_edit_n_max": task.morph.start,
            "flow_edit_n_avg": task.morph.averages,
        }
    fields |= {"allow_length_change": True} if task.may_change_length else {}
    if request.task_type == "complete":
        fields["track_classes"] = list(task.tracks)
    elif task.rest:
        fields["stem_count"] = len(task.tracks) + 1
    elif task.tracks:
        fields["track_name"] = task.tracks[0]
    return fields


def _sampling(sampling: Sampling) -> JsonObject:
    start, end = sampling.cfg_interval
    # Steps and shift have no effect beside timesteps.
    schedule: JsonObject = (
        {"timesteps": list(sampling.timesteps)}
        if sampling.timesteps is not None
        else {"inference_steps": sampling.steps, "shift": sampling.shift}
    )
    return {
        **schedule,
        "guidance_scale": sampling.guidance_scale,
        "cfg_interval_start": start,
        "cfg_interval_end": end,
        "infer_method": sampling.infer_method,
        "audio_cover_strength": sampling.cover_strength,
        "cover_noise_strength": sampling.noise_strength,
        **_tuning(sampling.tuning),
    }


def _tuning(tuning: Tuning) -> JsonObject:
    if tuning == Tuning():
        return {}
    params = {"norm_threshold": tuning.norm_limit, "angle_clip": tuning.angle_limit}
    usual = {"norm_threshold": Tuning().norm_limit, "angle_clip": None}
    return {
        "sampler_mode": tuning.integrator,
        "guidance_variant": tuning.guidance,
        "momentum": tuning.momentum,
        "eta": tuning.eta,
        "guidance_params": {name: value for name, value in params.items() if value != usual[name]},
        "velocity_norm_threshold": tuning.velocity_limit,
        "velocity_ema_factor": tuning.smoothing,
        **_correction(tuning.correction),
        "latent_rescale": tuning.latent_scale,
        "latent_shift": tuning.latent_shift,
    }


def _correction(correction: WaveletCorrection | None) -> JsonObject:
    if correction is None:
        return {"dcw_enabled": False}  # said, since ACESTEP_DCW may turn it on
    fields = {"dcw_enabled": True, "dcw_mode": correction.bands, "dcw_scaler": correction.scale}
    return fields | ({"dcw_high_scaler": correction.high_scale} if correction.bands == "double" else {})


METADATA_DONE = "Analysis Only Mode Complete"

NO_DIT = "None (Analysis Only)"


def plan_item(goal: Goal, plan: SongPlan, codes: str) -> JsonObject | None:
    """Return the only item of a job that extracts codes or describes audio; None for other goals."""
    if goal == "codes":
        return _extracted(codes)
    return _described(plan, codes) if goal == "description" else None


def _extracted(codes: str) -> JsonObject:
    return {
        "status_message": "Audio Codes Extraction Success",
        "audio_codes": codes,
        "audio_paths": [],
        "raw_audio_paths": [],
        "first_audio_path": None,
        "metas": {},
    }


def _described(plan: SongPlan, codes: str) -> JsonObject:
    facts = {
        "bpm": plan.bpm or UNDECIDED,
        "keyscale": plan.key_scale or UNDECIDED,
        "timesignature": plan.time_signature or UNDECIDED,
        "duration": plan.duration,
    }
    words = {"lyrics": plan.lyrics, "language": plan.language}
    return {
        "status_message": "Full Hardware Analysis Success",
        **facts,
        "genre": UNDECIDED,  # the planner puts it into the caption
        "prompt": plan.caption,
        **words,
        "metas": {**facts, "caption": plan.caption, **words},
        "audio_paths": [],
        "audio_codes": codes,
    }


def analysis_fields(found: Analysis) -> JsonObject:
    times = found.lyric_times
    lines = times.lines if times else ()
    return {
        "lrc": lrc(lines),
        "alignment_score": times.score if times else None,
        "lyric_timestamps": [_line(line) for line in lines],
        "waveform_peaks": [list(point) for point in found.peaks],
        "loudness": _loudness(found),
    }


def lrc(lines: Sequence[TimedLine]) -> str:
    """Return lyrics in the LRC format: `[mm:ss.hh]` before each line."""
    return "".join(f"[{_clock(line.start)}]{line.text}\n" for line in lines)


def _clock(seconds: float) -> str:
    hundredths = round(seconds * 100)
    return f"{hundredths // 6000:02}:{hundredths // 100 % 60:02}.{hundredths % 100:02}"


def _line(line: TimedLine) -> LineItem:
    words = [WordItem(text=word.text, start=word.start, end=word.end) for word in line.words]
    return LineItem(text=line.text, start=line.start, end=line.end, words=words)


def _loudness(found: Analysis) -> LoudnessItem | None:
    if found.loudness is None:
        return None
    return LoudnessItem(integrated_lufs=found.loudness.integrated, true_peak_dbtp=found.loudness.true_peak)
