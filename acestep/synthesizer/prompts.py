"""The two texts that the synthesizer reads for a song, exactly as the published weights saw them.

Owns their wording down to the last newline: the models were trained on these strings, and one letter
changes the music. Knows nothing of tokens or tensors, and does not import torch.
"""

from __future__ import annotations

from acestep.domain import INSTRUMENTAL, SongPlan

HINTED_INSTRUCTION = "Generate audio semantic tokens based on the given conditions:"  # covers, and codes
TEXT2MUSIC_INSTRUCTION = "Fill the audio semantic mask based on the given conditions:"

_END = "<|endoftext|>"
_UNDECIDED = "N/A"


def caption_prompt(plan: SongPlan) -> str:
    """What to do, the caption and the musical facts; read by the whole text encoder."""
    instruction = plan.instruction if plan.instruction.endswith(":") else f"{plan.instruction}:"
    return f"# Instruction\n{instruction}\n\n# Caption\n{plan.caption}\n\n# Metas\n{metas(plan)}{_END}\n"


def lyric_prompt(plan: SongPlan) -> str:
    """The words and their language; only embedded, the model has a lyric encoder of its own."""
    lyrics = plan.lyrics if plan.lyrics.strip() else INSTRUMENTAL
    return f"# Languages\n{plan.language}\n\n# Lyric\n{lyrics}{_END}"


def metas(plan: SongPlan) -> str:
    """The facts as four lines; what nobody decided is N/A. The duration is cut to whole seconds."""
    return (
        f"- bpm: {plan.bpm if plan.bpm is not None else _UNDECIDED}\n"
        f"- timesignature: {plan.time_signature or _UNDECIDED}\n"
        f"- keyscale: {plan.key_scale or _UNDECIDED}\n"
        f"- duration: {int(plan.duration)} seconds\n"
    )
