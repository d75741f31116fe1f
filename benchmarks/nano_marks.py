"""One song against its prompt: each score as right or wrong, and the shares of many.

    uv run --group training python -m benchmarks.nano_marks [--every 3]

measures the ceiling: the pieces behind the prompts, rendered by the composer.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from acestep.domain.song import AudioClip
from benchmarks.music import TEMPO_TOLERANCE, is_key, is_tempo, key, tempo
from benchmarks.nano_detector import NAMED, PLAYS, Detector, solo_is
from benchmarks.nano_prompts import Prompt, load, piece
from benchmarks.nano_scores import Edges, edges, metre
from training.nano.music.piece import DRUMS
from training.nano.sound.mixing import SAMPLE_RATE, loudness
from training.nano.sound.store import render
from training.nano.theory import Key


@dataclass(frozen=True, slots=True)
class Measured:
    """One song; `sure` tells how sure the detector is of each label."""

    bpm: float
    key: str
    metre: str
    sure: dict[str, float]
    edges: Edges
    loudness: float


@dataclass(frozen=True, slots=True)
class Marks:
    """What is right about a song; None where the prompt does not ask for it.

    `solo` is for prompts of one instrument, `mixed` for others: all named instruments play. `named` is the
    share of them that do.
    """

    tempo: bool
    tempo_exact: bool
    key: bool | None
    key_exact: bool | None
    metre: bool
    solo: bool | None
    mixed: bool | None
    named: float | None
    drums: bool
    edges: bool


def measure(sound: NDArray[np.float32], bpm: int, detector: Detector) -> Measured:
    """Measure `[2, samples]` at 48 kHz of a song that was to be at `bpm`."""
    clip = AudioClip(sound, SAMPLE_RATE)
    return Measured(
        bpm=tempo(clip),
        key=key(clip),
        metre=metre(sound, bpm),
        sure=detector.probabilities(sound),
        edges=edges(sound),
        loudness=loudness(sound, SAMPLE_RATE),
    )


def mark(prompt: Prompt, found: Measured) -> Marks:
    """What was measured against what was asked for; with another song's prompt it gives chance."""
    named = [found.sure[name] > NAMED for name in prompt.instruments] if prompt.solo is None else []
    wanted = prompt.key_scale
    return Marks(
        tempo=is_tempo(found.bpm, prompt.bpm),
        tempo_exact=abs(found.bpm / prompt.bpm - 1) <= TEMPO_TOLERANCE,
        key=is_key(found.key, wanted) if wanted else None,
        key_exact=Key.parse(found.key) == Key.parse(wanted) if wanted else None,
        metre=found.metre == ("4" if prompt.time_signature == "2" else prompt.time_signature),
        solo=solo_is(found.sure, prompt.solo) if prompt.solo else None,
        mixed=all(named) if named else None,
        named=sum(named) / len(named) if named else None,
        drums=(found.sure[DRUMS] > PLAYS) == prompt.drums,
        edges=found.edges.is_right,
    )


def shares(marks: Sequence[Marks]) -> dict[str, float]:
    """Each score's mean over the songs that it was asked of."""
    means = {}
    for field in fields(Marks):
        asked = [getattr(each, field.name) for each in marks if getattr(each, field.name) is not None]
        if asked:
            means[field.name] = sum(map(float, asked)) / len(asked)
    return means


def ceiling(prompts: Sequence[Prompt], detector: Detector) -> list[Measured]:
    """The pieces behind `prompts`, measured."""
    from training.nano.sound.synth import SOUNDFONTS, StemSynth

    with StemSynth(SOUNDFONTS[0]) as synth:
        return [
            measure(render(piece(prompt), synth).mix, prompt.bpm, detector)
            for prompt in track(prompts, "ceiling")
        ]


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--every", type=int, default=1, help="take every n-th prompt")
    prompts = load()[:: parser.parse_args().every]
    found = ceiling(prompts, Detector.load())
    right = shares([mark(prompt, song) for prompt, song in zip(prompts, found, strict=True)])
    others = [*prompts[1:], prompts[0]]
    chance = shares([mark(prompt, song) for prompt, song in zip(others, found, strict=True)])
    levels = [song.loudness for song in found]
    table = Table("score", f"ceiling, {len(prompts)} prompts", "chance: another song's prompt")
    for name, share in right.items():
        table.add_row(name, f"{100 * share:.0f} %", f"{100 * chance[name]:.0f} %")
    table.add_row("loudness spread", f"{max(levels) - min(levels):.1f} LU")
    Console().print(table)


if __name__ == "__main__":
    main()
