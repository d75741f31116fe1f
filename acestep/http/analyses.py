"""The answers of jobs that end in a plan instead of a song: audio codes, or what a song is.

Owns these shapes, whose keys are the original's. Knows nothing of how they came about.
"""

from __future__ import annotations

from typing import Any

from acestep.domain import Goal, SongPlan
from acestep.http.fields import UNDECIDED

METADATA_DONE = "Analysis Only Mode Complete"
NO_DIT = "None (Analysis Only)"


def analysis(goal: Goal, plan: SongPlan, codes: str) -> dict[str, Any] | None:
    """Return the one item of such a job; `codes` is the text of the plan's codes. None for other goals."""
    if goal == "codes":
        return _extracted(codes)
    return _described(plan, codes) if goal == "description" else None


def _extracted(codes: str) -> dict[str, Any]:
    return {
        "status_message": "Audio Codes Extraction Success",
        "audio_codes": codes,
        "audio_paths": [],
        "raw_audio_paths": [],
        "first_audio_path": None,
        "metas": {},
    }


def _described(plan: SongPlan, codes: str) -> dict[str, Any]:
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
        "genre": UNDECIDED,  # the planner has no word for it apart from the caption
        "prompt": plan.caption,
        **words,
        "metas": {**facts, "caption": plan.caption, **words},
        "audio_paths": [],
        "audio_codes": codes,
    }
