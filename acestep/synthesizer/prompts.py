"""The two texts that the models read for a song, exactly as the published weights were trained on them."""

from __future__ import annotations

from collections.abc import Sequence

from acestep.domain.song import INSTRUMENTAL, SongPlan, TaskType

HINTED_INSTRUCTION = "Generate audio semantic tokens based on the given conditions:"  # covers, and codes
TEXT2MUSIC_INSTRUCTION = "Fill the audio semantic mask based on the given conditions:"
REPAINT_INSTRUCTION = "Repaint the mask area based on the given conditions:"

_END = "<|endoftext|>"
_UNKNOWN = "N/A"


def instruction(task_type: TaskType, tracks: Sequence[str] = (), *, hinted: bool = False) -> str:
    """The instruction of a task; `hinted` is text2music with audio codes."""
    named = " | ".join(track.upper() for track in tracks)
    one = f" {named}" if named else ""
    return {
        "text2music": HINTED_INSTRUCTION if hinted else TEXT2MUSIC_INSTRUCTION,
        "cover": HINTED_INSTRUCTION,
        "repaint": REPAINT_INSTRUCTION,
        "extract": f"Extract the{one} track from the audio:",
        "lego": f"Generate the{one} track based on the audio context:",
        "complete": f"Complete the input track with {named}:" if named else "Complete the input track:",
    }[task_type]


def caption_prompt(plan: SongPlan) -> str:
    """The text of the caption branch, which the whole text encoder reads."""
    instruction = plan.instruction if plan.instruction.endswith(":") else f"{plan.instruction}:"
    return f"# Instruction\n{instruction}\n\n# Caption\n{plan.caption}\n\n# Metas\n{metas(plan)}{_END}\n"


def lyric_prompt(plan: SongPlan) -> str:
    """The text of the lyric branch, of which only the token embeddings are used."""
    lyrics = plan.lyrics if plan.lyrics.strip() else INSTRUMENTAL
    return f"{lyric_header(plan)}{lyrics}{_END}"


def lyric_header(plan: SongPlan) -> str:
    """The part of `lyric_prompt` before the lyrics."""
    return f"# Languages\n{plan.language}\n\n# Lyric\n"


def metas(plan: SongPlan) -> str:
    """Four lines of metadata; unknown values are N/A, and the duration is cut to whole seconds."""
    return (
        f"- bpm: {plan.bpm if plan.bpm is not None else _UNKNOWN}\n"
        f"- timesignature: {plan.time_signature or _UNKNOWN}\n"
        f"- keyscale: {plan.key_scale or _UNKNOWN}\n"
        f"- duration: {int(plan.duration)} seconds\n"
    )
