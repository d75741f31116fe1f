"""The composer: whole pieces with a beginning and an end, for a length and a wish.

A piece has a form of sections that come again with variation and grow in density; its last chord rings out.
Styles, figures and forms are data; what single voices play is `lines`, what is true of the result is `facts`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from training.nano.music import arrange as arranging
from training.nano.music.arrange import Arrangement, Voice
from training.nano.music.facts import Origin, facts_of
from training.nano.music.figures import PROGRESSIONS
from training.nano.music.form import SHORTEST, Grid, Span, bars_in, lay_out
from training.nano.music.instruments import DRUM_MAP, HAND, INSTRUMENTS
from training.nano.music.lines import Harmony, Melodist, accompany, drum_bar, pitches, velocity
from training.nano.music.piece import BEATS, DRUMS, PERCUSSION, Material, Note, Piece, Section, Wish
from training.nano.music.styles import STYLE_OF, STYLES, Style
from training.nano.theory import KEY_SCALES, Chord, Key

MIN_BPM, MAX_BPM = 60, 180
_SIX_EIGHTHS = (60, 112)  # dotted quarters a minute
_METRES = {"4": 0.6, "3": 0.2, "6": 0.1, "2": 0.1}
_CLOSES = 0.45  # seconds before the end when the last sustained notes are released
_BREATH = 0.05  # seconds between a note and the next, so that both can be heard to begin
_SHORT = 0.1  # seconds of a drum's note; drums ring as they are


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    """All that is decided before the first note."""

    style: Style
    grid: Grid
    spans: list[Span]
    material: Material
    arrangement: Arrangement
    harmony: Harmony
    register: str
    seconds: float
    rng: random.Random


def compose(seed: int, seconds: float = 30.0, wish: Wish | None = None) -> Piece:
    """A piece of exactly `seconds`, the same for the same seed and wish.

    Raises ValueError for a wish that no piece can fulfil.
    """
    wish = wish or Wish()
    _check(seconds, wish)
    rng = random.Random(seed)
    job = _decide(seed, seconds, wish, rng)
    notes = _tidy([*_melodic(job), *_drums(job), *_ending(job)], seconds)
    stems = arranging.stems_of(job.arrangement, job.style, job.grid.metre, rng)
    sounding = {note.stem for note in notes}
    material = job.material
    key = str(job.harmony.key)
    origin = Origin(job.style.name, material.form, job.grid.bpm, job.grid.metre, key, material.energy)
    stems = tuple(stem for stem in stems if stem.name in sounding)
    return Piece(seed, material, facts_of(origin, stems, notes, seconds), stems, _sections(job), notes)


def _check(seconds: float, wish: Wish) -> None:
    if seconds < SHORTEST:
        raise ValueError(f"seconds {seconds:g} is too short for a piece: write {SHORTEST:g} or more")
    if wish.bpm is not None and not MIN_BPM <= wish.bpm <= MAX_BPM:
        raise ValueError(f"bpm {wish.bpm} cannot be played: write {MIN_BPM} to {MAX_BPM}")
    if wish.style is not None and wish.style not in STYLE_OF:
        raise ValueError(f"style {wish.style!r} is unknown: write one of {', '.join(STYLE_OF)}")
    unknown = [name for name in wish.ensemble or () if name not in INSTRUMENTS]
    if unknown:
        raise ValueError(f"instrument {unknown[0]!r} is unknown: write one of {', '.join(INSTRUMENTS)}")
    if wish.ensemble == () and wish.drums is False:
        raise ValueError("a piece without instruments and without drums is silence: wish for one of them")
    metres = sorted(
        {metre for style in STYLES if wish.style in (None, style.name) for metre in style.grooves}
    )
    if wish.time_signature not in (None, *metres):
        played_in = f"{wish.style or 'music'} is played in {' or '.join(metres)}"
        raise ValueError(f"time_signature {wish.time_signature!r} cannot be played: {played_in}")


def _decide(seed: int, seconds: float, wish: Wish, rng: random.Random) -> _Job:
    kind = arranging.kind_of(wish, rng)
    if wish.style and kind != "wished" and not arranging.fits(STYLE_OF[wish.style], kind, wish):
        kind = "band"
    style, metre = _choose_style(kind, wish, rng)
    bpm = wish.bpm if wish.bpm is not None else _choose_bpm(style, metre, rng)
    grid = Grid(metre, bpm, style.swing)
    key = Key.parse(wish.key_scale or rng.choice(KEY_SCALES))
    energy = wish.energy if wish.energy is not None else rng.choice(style.energy)
    material = wish.material or Material(seed, rng.choice(style.forms), style.harmony, style.scale, energy)
    arrangement = arranging.arrange(style, metre, kind, wish, rng)
    register = wish.register or rng.choice(("low", "mid", "mid", "high"))
    spans = lay_out(bars_in(seconds, grid), material.form, longest=4 if material.form == "blues" else 8)
    harmony = Harmony(key, material.scale)
    return _Job(style, grid, spans, material, arrangement, harmony, register, seconds, rng)


def _choose_style(kind: str, wish: Wish, rng: random.Random) -> tuple[Style, str]:
    """Style and metre: all styles come as often, and a metre as often as its share where the style has it."""
    styles = [STYLE_OF[wish.style]] if wish.style else list(STYLES)
    metre = wish.time_signature
    styles = [style for style in styles if metre is None or metre in style.grooves]
    if wish.style is None:
        styles = [style for style in styles if arranging.fits(style, kind, wish)] or styles
    if wish.bpm is not None:
        near = [style for style in styles if style.bpm[0] <= wish.bpm <= style.bpm[1]]
        styles = near or styles
    style = rng.choice(styles)
    if metre is None:
        own = list(style.grooves)
        (metre,) = rng.choices(own, weights=[_METRES[each] for each in own])
    return style, metre


def _choose_bpm(style: Style, metre: str, rng: random.Random) -> int:
    low, high = style.bpm
    if metre == "6":
        low, high = max(low, _SIX_EIGHTHS[0]), min(high, _SIX_EIGHTHS[1])
        low = min(low, high)
    return rng.randint(low, high)


def _chords(job: _Job) -> dict[str, list[Chord]]:
    """Four bars of harmony for each letter of the form; a piece begins on the tonic."""
    mode = job.harmony.key.mode
    pool = job.material.harmony
    rng = random.Random(f"harmony {job.material.seed}")
    contrast = pool if pool in ("blues", "still") and rng.random() < 0.7 else "contrast"
    numerals = {}
    for number, letter in enumerate("ABC"):
        options = PROGRESSIONS[(pool if letter != "B" else contrast), mode]
        numerals[letter] = options[number] if pool == "blues" else rng.choice(options)
    sevenths = job.style.sevenths
    return {
        letter: [job.harmony.voiced(job.harmony.key.chord(numeral, sevenths)) for numeral in line.split()]
        for letter, line in numerals.items()
    }


def _span_chords(span: Span, chords: dict[str, list[Chord]]) -> list[Chord]:
    # Sections of one or two bars go on in the progression where the one before stopped.
    offset = 0 if span.bars >= 4 else span.turn * span.bars
    line = chords["A" if span.letter not in chords else span.letter]
    return [line[(offset + bar) % len(line)] for bar in range(span.bars)]


def _melodic(job: _Job) -> Iterator[Note]:
    chords = _chords(job)
    for voice in job.arrangement.voices:
        if voice.role in ("lead", "counter"):
            yield from _melody(job, voice, chords)
        else:
            yield from _accompaniment(job, voice, chords)


def _plays(job: _Job, voice: Voice, span: Span) -> bool:
    # One instrument alone plays all the time; its melody waits for the intro, if something else goes on.
    alone = len({each.stem for each in job.arrangement.voices}) == 1
    accompanied = len(job.arrangement.voices) > 1
    if alone:
        return not (accompanied and voice.role == "lead" and span.name == "intro")
    return span.level >= voice.enters


def _melodist(job: _Job, voice: Voice) -> Melodist:
    register = "low" if voice.role == "counter" else job.register
    rng = random.Random(f"{voice.role} {job.material.seed}")
    return Melodist(job.harmony, job.grid.metre, job.material.energy, voice.instrument, register, rng)


def _melody(job: _Job, voice: Voice, chords: dict[str, list[Chord]]) -> Iterator[Note]:
    melodist = _melodist(job, voice)
    themes = {}
    for span in job.spans:
        harmony = _span_chords(span, chords)
        key = (span.letter, span.bars, tuple(chord.tones for chord in harmony))
        if key not in themes:
            themes[key] = melodist.theme(harmony)
        if not _plays(job, voice, span):
            continue
        if voice.role == "counter":
            bars = [melodist.counter(chord) for chord in harmony]
        else:
            bars = melodist.varied(themes[key], harmony, span.turn, job.material.form)
        for number, bar in enumerate(bars[: span.bars]):
            yield from _struck(job, voice, span, span.first + number, melodist.sounding(bar))


def _accompaniment(job: _Job, voice: Voice, chords: dict[str, list[Chord]]) -> Iterator[Note]:
    for span in job.spans:
        if not _plays(job, voice, span):
            continue
        for number, chord in enumerate(_span_chords(span, chords)):
            bar = accompany(voice, chord)
            if span.level < 2 and voice.role == "arp":
                bar = [strike for strike in bar if job.grid.accent(strike[0])]  # only on the beats
            yield from _struck(job, voice, span, span.first + number, bar)


def _struck(
    job: _Job, voice: Voice, span: Span, bar: int, strikes: list[tuple[float, float, int, int]]
) -> Iterator[Note]:
    for step, held, pitch, base in strikes:
        start, end = job.grid.time(bar, step), job.grid.time(bar, step + held)
        end -= min(_BREATH, 0.2 * (end - start))
        loud = (
            velocity(base, span.level, job.material.energy) + job.grid.accent(step) + job.rng.randint(-3, 3)
        )
        yield Note(voice.stem, pitch, loud, start, end)


def _drums(job: _Job) -> Iterator[Note]:
    if not job.arrangement.has_drums:
        return
    groove = job.style.grooves[job.grid.metre]
    alone = not job.arrangement.voices
    last = job.spans[-1]
    for number, span in enumerate(job.spans):
        if span.level == 0 and not alone:
            continue
        light = span.level == 1 and job.rng.random() < 0.5
        fills = span is not last and span.bars >= 2 and job.material.energy > 0 and span.level >= 1
        for bar in range(span.bars):
            fill = fills and bar == span.bars - 1 and job.rng.random() < 0.7
            struck = drum_bar(groove, span.level, light=light, fill=fill)
            if bar == 0 and number and span.level >= 2 and job.material.energy > 0:
                struck.append(("crash", 0, 92))
            for drum, step, loud in struck:
                yield _drum(drum, job.grid.time(span.first + bar, step), loud)


def _drum(drum: str, start: float, loud: int) -> Note:
    stem = PERCUSSION if drum in HAND else DRUMS
    return Note(stem, DRUM_MAP[drum][0], loud, start, start + _SHORT)


def _ending(job: _Job) -> Iterator[Note]:
    """The last chord on the downbeat after the last bar; lively pieces strike it twice, harps roll it."""
    bar = job.spans[-1].first + job.spans[-1].bars
    start = job.grid.time(bar, 0)
    beat = 60.0 / job.grid.bpm
    strikes = [(start, job.seconds - _CLOSES)]
    if job.material.energy == 2 and job.seconds - start - beat > 1.7:
        strikes = [(start, start + beat / 2), (start + beat, job.seconds - _CLOSES)]
    tonic = job.harmony.voiced(job.harmony.key.chord("I", seventh=False))
    for begin, end in strikes:
        for voice in job.arrangement.voices:
            if _plays(job, voice, job.spans[-1]):
                yield from _last(job, voice, tonic, begin, end)
        if job.arrangement.has_drums:
            hits = [("kick", 108), ("crash", 88)] if job.material.energy else [("kick", 88)]
            yield from (_drum(drum, begin, loud) for drum, loud in hits)


def _last(job: _Job, voice: Voice, tonic: Chord, begin: float, end: float) -> Iterator[Note]:
    if voice.role in ("lead", "counter"):
        melodist = _melodist(job, voice)
        struck = [melodist.home()]
    elif voice.role == "bass":
        struck = pitches(voice, tonic, "0")
    else:
        struck = pitches(voice, tonic, "x")
    roll = 0.07 if voice.role == "arp" else 0.0
    for number, pitch in enumerate(struck):
        loud = velocity(84 if voice.role != "pad" else 64, 2, job.material.energy)
        yield Note(voice.stem, pitch, loud, begin + number * roll, end)


def _tidy(notes: list[Note], seconds: float) -> tuple[Note, ...]:
    """In order of time, each note once, and none that sounds on into the same one struck again."""
    ordered = sorted(notes, key=lambda note: (note.start, note.stem, note.pitch, -note.end))
    kept: dict[tuple[str, int], int] = {}
    tidy: list[Note] = []
    for note in ordered:
        before = kept.get((note.stem, note.pitch))
        if before is not None:
            last = tidy[before]
            if note.start - last.start < 1e-6:
                continue
            if last.end > note.start:
                tidy[before] = Note(last.stem, last.pitch, last.velocity, last.start, note.start)
        kept[note.stem, note.pitch] = len(tidy)
        end = min(note.end, seconds - _CLOSES / 3)
        tidy.append(Note(note.stem, note.pitch, note.velocity, note.start, end))
    return tuple(tidy)


def _sections(job: _Job) -> tuple[Section, ...]:
    grid = job.grid
    sections = [
        Section(
            span.name, span.letter, grid.time(span.first, 0), grid.time(span.first + span.bars, 0), span.level
        )
        for span in job.spans
    ]
    return (*sections, Section("ending", "A", sections[-1].end, job.seconds, sections[-1].level))


def bar_seconds(piece: Piece) -> float:
    """How long a bar lasts."""
    return BEATS[piece.facts.time_signature] * 60.0 / piece.facts.bpm
