"""What the planner is asked, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from acestep.domain.song import PlannerOptions


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a planner decides of a song; None: not decided."""

    bpm: int | None = None
    caption: str | None = None
    duration: int | None = None  # seconds
    key_scale: str | None = None
    language: str | None = None
    time_signature: str | None = None


@dataclass(frozen=True, slots=True)
class Draft:
    metadata: Metadata
    lyrics: str
    warnings: tuple[str, ...] = ()  # what of the user's was left as it is, and why


@dataclass(frozen=True, slots=True)
class DraftRequest:
    """What one call of the planner asks for, apart from any song."""

    kind: Literal["format", "sample", "lyrics", "understand"]
    caption: str = ""  # "format" improves caption and lyrics
    lyrics: str = ""
    query: str = ""  # "sample" makes a song of this sentence, and "lyrics" the words of one
    instrumental: bool | None = None  # None: the sentence decides
    metadata: Metadata = field(default_factory=Metadata)  # what is set here is kept
    audio_path: str = ""  # "understand" describes this file, or the codes
    audio_codes: tuple[int, ...] = ()
    options: PlannerOptions = field(default_factory=PlannerOptions)
    seed: int = 0
