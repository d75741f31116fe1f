"""What each task of the server is learned from: a source, what is to come of it, and what is true of that.

All sound is stereo `[2, samples]` at 48 kHz and lies sample for sample on its source. Stems keep the loudness
that they have in the mix, so that source and target add up.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import numpy as np

from acestep.domain.song import TaskType
from training.nano.music.arrange import LYRICAL, PURE
from training.nano.music.facts import Origin, cut_starts, facts_of
from training.nano.music.instruments import INSTRUMENTS, LEADS, track_of
from training.nano.music.piece import Facts, Piece, Wish
from training.nano.music.styles import STYLES
from training.nano.sound.mixing import SAMPLE_RATE, Audio
from training.nano.sound.store import Order, Rendered

_LONGEST_WINDOW = 0.6  # share of a piece that is repainted at most


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """One example of a task.

    `tracks` are the server's names, as in the task's instruction; `facts` are those of `target`. A repaint
    gets `window`, the seconds that are to be made anew; a song with a reference has no source.
    """

    task: TaskType
    target: Audio
    facts: Facts
    source: Audio | None = None
    reference: Audio | None = None
    tracks: tuple[str, ...] = ()
    window: tuple[float, float] | None = None


def tracks(rendered: Rendered) -> tuple[str, ...]:
    """The tracks that can be told apart in a piece."""
    return tuple(dict.fromkeys(map(track_of, rendered.stems)))


def extract(rendered: Rendered, track: str) -> Pair:
    """The track out of the mix."""
    names = _named(rendered, track)
    target = _sum(rendered, names)
    return Pair("extract", target, _facts(rendered, names), rendered.mix, tracks=(track,))


def lego(rendered: Rendered, track: str, *, whole: bool = True) -> Pair:
    """The rest of the piece with the track added (`whole`), or the track alone.

    Raises ValueError for a piece that is nothing but the track.
    """
    names = _named(rendered, track)
    rest = [name for name in rendered.stems if name not in names]
    if not rest:
        raise ValueError(f"{track} is all that there is in the piece: nothing is left to add it to")
    wanted = list(rendered.stems) if whole else names
    return Pair(
        "lego", _sum(rendered, wanted), _facts(rendered, wanted), _sum(rendered, rest), tracks=(track,)
    )


def complete(rendered: Rendered, track: str) -> Pair:
    """The whole piece around one of its tracks."""
    names = _named(rendered, track)
    others = tuple(other for other in tracks(rendered) if other != track)
    if not others:
        raise ValueError(f"{track} is all that there is in the piece: nothing completes it")
    return Pair("complete", rendered.mix, rendered.piece.facts, _sum(rendered, names), tracks=others)


def cover(source: Rendered, covered: Rendered) -> Pair:
    """The same notes as another arrangement, as `cover_order` asks for it."""
    if source.piece.material != covered.piece.material:
        raise ValueError("a cover needs the material of its source: compose it as cover_order says")
    return Pair("cover", covered.mix, covered.piece.facts, source.mix)


def reference(target: Rendered, other: Rendered) -> Pair:
    """A piece, and another one of the same timbres, as `reference_order` asks for it."""
    return Pair("text2music", target.mix, target.piece.facts, reference=other.mix)


def repaint(rendered: Rendered, rng: random.Random) -> Pair:
    """Some bars within a piece, from downbeat to downbeat."""
    starts = [*cut_starts(rendered.piece), rendered.piece.facts.seconds]
    longest = _LONGEST_WINDOW * rendered.piece.facts.seconds
    windows = [(a, b) for a in starts[:-1] for b in starts if a < b and b - a <= longest]
    window = rng.choice(windows)
    return Pair("repaint", rendered.mix, rendered.piece.facts, rendered.mix, window=window)


def outside(pair: Pair) -> Audio:
    """The source of a repaint as a model may hear it: silent in the window."""
    if pair.source is None or pair.window is None:
        raise ValueError("only a repaint has a window")
    start, end = (round(second * SAMPLE_RATE) for second in pair.window)
    heard = pair.source.copy()
    heard[:, start:end] = 0.0
    return heard


def cover_order(order: Order, piece: Piece, rng: random.Random) -> Order:
    """The same material, tempo, key and length with other instruments in another style."""
    facts = piece.facts
    strangers = [name for name in INSTRUMENTS if name not in facts.heard]
    ensemble = tuple(_other(name, strangers, rng) for name in facts.heard)
    styles = [
        style.name
        for style in STYLES
        if facts.time_signature in style.grooves
        and style.name not in (facts.style, *PURE)
        and (len(ensemble) > 1 or style.name in LYRICAL)
    ]
    wish = Wish(
        style=rng.choice(styles) if ensemble else facts.style,
        bpm=facts.bpm,
        key_scale=facts.key_scale,
        time_signature=facts.time_signature,
        ensemble=tuple(dict.fromkeys(ensemble)),
        drums=rng.random() < 0.5 if len(ensemble) > 1 else facts.has_drums,
        material=piece.material,
    )
    return replace(order, seed=order.seed + 1, wish=wish)


def reference_order(order: Order, piece: Piece) -> Order:
    """Another piece of the same style, played by the same stems with the same SoundFont."""
    facts = piece.facts
    drums = facts.has_drums or facts.has_percussion
    wish = Wish(style=facts.style, ensemble=facts.heard, drums=drums, energy=facts.energy)
    return replace(order, seed=order.seed + 2, wish=wish)


def _other(name: str, strangers: list[str], rng: random.Random) -> str:
    """Another instrument that can do the same."""
    roles = INSTRUMENTS[name].roles
    able = [other for other in strangers if INSTRUMENTS[other].roles[0] == roles[0]]
    chosen = rng.choice(able or [other for other in LEADS if other != name])
    if chosen in strangers:
        strangers.remove(chosen)
    return chosen


def _named(rendered: Rendered, track: str) -> list[str]:
    names = [name for name in rendered.stems if track_of(name) == track]
    if not names:
        raise ValueError(f"{track} does not play in this piece: take one of {', '.join(tracks(rendered))}")
    return names


def _sum(rendered: Rendered, names: list[str]) -> Audio:
    added: Audio = np.sum([rendered.stems[name] for name in names], axis=0, dtype=np.float32)
    return added


def _facts(rendered: Rendered, names: list[str]) -> Facts:
    """What is true of some stems of a piece."""
    piece, facts = rendered.piece, rendered.piece.facts
    stems = [stem for stem in piece.stems if stem.name in names]
    notes = [note for note in piece.notes if note.stem in names]
    key = facts.key_scale or "C major"  # which drums alone do not tell
    origin = Origin(facts.style, facts.form, facts.bpm, facts.time_signature, key, facts.energy)
    return facts_of(origin, stems, notes, facts.seconds, facts.place)
