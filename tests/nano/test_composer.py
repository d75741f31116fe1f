from __future__ import annotations

from collections import Counter, defaultdict

import pytest

from training.nano.composer import DRUM_CHANNEL, MAX_BPM, MIN_BPM, Note, Piece, Wish, compose
from training.nano.styles import INSTRUMENTS, STYLES, Style
from training.nano.theory import ENHARMONIC, KEY_SCALES, Key, enharmonic, transpose_key

SECONDS = 30.0
PLAYABLE = [(style, metre) for style in STYLES for metre in style.drums]
MAJOR, MINOR = {0, 2, 4, 5, 7, 9, 11}, {0, 2, 3, 5, 7, 8, 10}


@pytest.fixture(scope="module")
def pieces() -> list[Piece]:
    return [compose(seed, SECONDS) for seed in range(200)]


def melodic(piece: Piece) -> list[Note]:
    return [note for note in piece.notes if note.channel != DRUM_CHANNEL]


def drums(piece: Piece) -> list[Note]:
    return [note for note in piece.notes if note.channel == DRUM_CHANNEL]


def named(style: Style | str) -> str:
    return style.name if isinstance(style, Style) else style


def test_the_same_seed_and_wish_give_the_same_piece() -> None:
    assert compose(5) == compose(5)
    assert compose(5, wish=Wish(bpm=90)) == compose(5, wish=Wish(bpm=90))
    assert compose(5, wish=Wish()) == compose(5)


def test_another_seed_gives_another_piece(pieces: list[Piece]) -> None:
    assert len({piece.notes for piece in pieces}) == len(pieces)


@pytest.mark.parametrize("seconds", [10.0, 12.5, 45.0])
def test_a_piece_is_as_long_as_asked(seconds: float) -> None:
    piece = compose(1, seconds)
    assert piece.seconds == seconds
    assert seconds - 2.5 < max(note.start for note in piece.notes) < seconds
    assert max(note.end for note in piece.notes) <= seconds


class TestTime:
    def test_music_starts_at_once_and_ends_with_the_piece(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            assert piece.notes[0].start == 0.0
            for note in piece.notes:
                assert 0.0 <= note.start < note.end <= SECONDS

    def test_notes_are_in_order_and_none_is_too_short_to_hear(self) -> None:
        # At many of these tempi a bar ends with the piece, or as good as that.
        for bpm in range(MIN_BPM, MAX_BPM + 1):
            piece = compose(bpm, SECONDS, Wish(bpm=bpm))
            starts = [note.start for note in piece.notes]
            assert starts == sorted(starts)
            # The last note may be cut, but no grid puts it nearer to the end than this.
            assert min(note.end - note.start for note in piece.notes) > 1e-4

    def test_every_onset_lies_on_the_grid(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            beat, swing = 60.0 / piece.bpm, piece.style.swing
            grid = (0.0, swing / 2, swing, (1 + swing) / 2, 1.0)
            for note in piece.notes:
                within = note.start / beat % 1.0
                assert min(abs(within - sixteenth) for sixteenth in grid) < 1e-6

    def test_drums_play_the_same_in_every_bar(self, pieces: list[Piece]) -> None:
        with_drums = [piece for piece in pieces if piece.has_drums]
        assert len(with_drums) > 100
        for piece in with_drums:
            bars = onsets_by_bar(piece, drums(piece))
            assert len(set(bars)) == 1 and bars[0]

    def test_only_the_melody_has_a_rhythm_that_changes(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            by_channel = defaultdict(list)
            for note in melodic(piece):
                by_channel[note.channel].append(note)
            rhythms = [
                {frozenset(time for time, _ in bar) for bar in onsets_by_bar(piece, notes)}
                for notes in by_channel.values()
            ]
            assert sum(len(rhythm) > 1 for rhythm in rhythms) <= 1


def onsets_by_bar(piece: Piece, notes: list[Note]) -> list[frozenset[tuple[int, int]]]:
    """What starts in each whole bar: (time in ten-thousandths of the bar, pitch)."""
    length = int(piece.time_signature) * 60.0 / piece.bpm
    bars: list[set[tuple[int, int]]] = [set() for _ in range(int(SECONDS / length + 1e-6))]
    for note in notes:
        bar = int(note.start / length + 1e-6)
        if bar < len(bars):
            bars[bar].add((round((note.start / length - bar) * 10_000), note.pitch))
    return [frozenset(bar) for bar in bars]


class TestHarmony:
    def test_notes_belong_to_the_key(self, pieces: list[Piece]) -> None:
        raised = Counter[str]()
        for piece in pieces:
            key = Key.parse(piece.key_scale)
            degrees = {(note.pitch - key.tonic) % 12 for note in melodic(piece)}
            scale = MAJOR if key.mode == "major" else MINOR
            outside = degrees - scale
            raised[key.mode] += bool(outside)
            assert outside <= ({11} if key.mode == "minor" else set())
        assert raised["minor"] > 10  # V in minor leads to the tonic
        assert raised["major"] == 0

    def test_the_raised_seventh_stands_in_bars_of_v_alone(self, pieces: list[Piece]) -> None:
        checked = 0
        for piece in pieces:
            key = Key.parse(piece.key_scale)
            if key.mode == "major":
                continue
            length = int(piece.time_signature) * 60.0 / piece.bpm
            bars = defaultdict(set)
            for note in melodic(piece):
                bars[int(note.start / length + 1e-6)].add((note.pitch - key.tonic) % 12)
            for degrees in bars.values():
                if 11 in degrees:
                    checked += 1
                    assert 10 not in degrees
                    assert 7 in degrees  # the root of V
        assert checked > 50

    def test_pieces_begin_on_the_tonic_chord(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            key = Key.parse(piece.key_scale)
            chord = key.chord("I", piece.style.sevenths)
            first = [note.pitch % 12 for note in melodic(piece) if note.start == 0.0]
            assert set(first) <= set(chord.tones)
            assert key.tonic in {note.pitch % 12 for note in melodic(piece)[:12]}

    def test_pitches_are_those_that_instruments_play(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            assert all(28 <= note.pitch <= 96 for note in melodic(piece))
            assert all(1 <= note.velocity <= 127 for note in piece.notes)


class TestFacts:
    def test_the_instruments_are_those_that_play(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            assert piece.instruments
            playing = {note.program for note in melodic(piece)}
            assert playing == {INSTRUMENTS[name][0] for name in piece.instruments}
            assert len(set(piece.instruments)) == len(piece.instruments)

    def test_drums_are_there_or_not_as_said(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            assert piece.has_drums == bool(drums(piece))

    def test_everything_turns_up(self, pieces: list[Piece]) -> None:
        assert {piece.style.name for piece in pieces} == {style.name for style in STYLES}
        assert {piece.key_scale for piece in pieces} == set(KEY_SCALES)
        assert {piece.energy for piece in pieces} == {0, 1, 2}
        assert {piece.has_drums for piece in pieces} == {True, False}
        in_three = sum(piece.time_signature == "3" for piece in pieces) / len(pieces)
        assert 0.18 < in_three < 0.32

    def test_styles_keep_to_their_tempi(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            assert MIN_BPM <= piece.bpm <= MAX_BPM
            slowest, fastest = piece.style.bpm
            assert slowest <= piece.bpm <= fastest
            assert piece.energy in piece.style.energy


class TestWishes:
    @pytest.mark.parametrize(("style", "metre"), PLAYABLE, ids=named)
    def test_a_style_in_a_metre(self, style: Style, metre: str) -> None:
        piece = compose(3, SECONDS, Wish(style=style.name, time_signature=metre))
        assert (piece.style, piece.time_signature) == (style, metre)
        assert melodic(piece)

    @pytest.mark.parametrize("style", STYLES, ids=named)
    def test_a_style_in_whatever_metre_it_has(self, style: Style) -> None:
        pieces = [compose(seed, SECONDS, Wish(style=style.name)) for seed in range(12)]
        assert {piece.style.name for piece in pieces} == {style.name}
        assert {piece.time_signature for piece in pieces} == set(style.drums)

    @pytest.mark.parametrize("bpm", [MIN_BPM, 97, MAX_BPM])
    @pytest.mark.parametrize("metre", ["3", "4"])
    def test_a_tempo_in_a_metre(self, bpm: int, metre: str) -> None:
        piece = compose(3, SECONDS, Wish(bpm=bpm, time_signature=metre))
        assert (piece.bpm, piece.time_signature) == (bpm, metre)

    @pytest.mark.parametrize("key_scale", KEY_SCALES)
    def test_a_key_in_either_spelling(self, key_scale: str) -> None:
        piece = compose(3, SECONDS, Wish(key_scale=key_scale))
        assert piece.key_scale == key_scale
        assert compose(3, SECONDS, Wish(key_scale=enharmonic(key_scale))) == piece

    def test_everything_at_once(self) -> None:
        piece = compose(3, SECONDS, Wish("waltz", 99, "Gb minor", "3"))
        found = (piece.style.name, piece.bpm, piece.key_scale, piece.time_signature)
        assert found == ("waltz", 99, "F# minor", "3")

    @pytest.mark.parametrize(
        ("wish", "said"),
        [
            (Wish(style="polka"), r"'polka' is unknown.*waltz"),
            (Wish(style=""), r"'' is unknown"),
            (Wish(bpm=MIN_BPM - 1), r"bpm 59 .*60 to 180"),
            (Wish(bpm=MAX_BPM + 1), r"bpm 181 .*60 to 180"),
            (Wish(time_signature="6"), r"'6' cannot be played.* 3 or 4"),
            (Wish(style="waltz", time_signature="4"), r"'4' cannot be played: waltz is played in 3$"),
            (Wish(style="rock", time_signature="3"), r"'3' cannot be played: rock is played in 4$"),
            (Wish(key_scale="H major"), r"'H major' is unknown"),
            (Wish(key_scale="C dorian"), r"'C dorian' is unknown"),
        ],
    )
    def test_what_nobody_can_play_is_refused(self, wish: Wish, said: str) -> None:
        with pytest.raises(ValueError, match=said):
            compose(1, SECONDS, wish)


class TestKeys:
    def test_there_are_twenty_four_and_they_read_as_they_are_written(self) -> None:
        assert len(set(KEY_SCALES)) == 24
        assert [str(Key.parse(key_scale)) for key_scale in KEY_SCALES] == list(KEY_SCALES)

    @pytest.mark.parametrize("key_scale", KEY_SCALES)
    def test_the_other_spelling_is_the_same_key(self, key_scale: str) -> None:
        other = enharmonic(key_scale)
        assert Key.parse(other) == Key.parse(key_scale)
        assert enharmonic(other) == key_scale
        assert (other != key_scale) == (key_scale.partition(" ")[0] in ENHARMONIC)

    @pytest.mark.parametrize("key_scale", KEY_SCALES)
    def test_there_and_back_again(self, key_scale: str) -> None:
        for semitones in range(-12, 13):
            moved = transpose_key(key_scale, semitones)
            assert transpose_key(moved, -semitones) == key_scale
            assert (moved == key_scale) == (semitones % 12 == 0)
        round_the_octave = {transpose_key(key_scale, semitones) for semitones in range(12)}
        assert len(round_the_octave) == 12

    def test_up_is_up(self) -> None:
        assert transpose_key("B minor", 1) == "C minor"
        assert transpose_key("Db major", -1) == "C major"

    @pytest.mark.parametrize(
        ("key_scale", "numeral", "tones"),
        [
            ("C major", "I", (0, 4, 7)),
            ("C major", "vi", (9, 0, 4)),
            ("A minor", "i", (9, 0, 4)),
            ("A minor", "V", (4, 8, 11)),
            ("A minor", "VII", (7, 11, 2)),
        ],
    )
    def test_chords(self, key_scale: str, numeral: str, tones: tuple[int, ...]) -> None:
        assert Key.parse(key_scale).chord(numeral).tones == tones

    def test_sevenths_stack_one_more_third(self) -> None:
        assert Key.parse("C major").chord("V", seventh=True).tones == (7, 11, 2, 5)

    def test_a_chord_is_laid_out_from_below(self) -> None:
        chord = Key.parse("C major").chord("IV")
        assert chord.ladder(60, 4) == [60, 65, 69, 72]
        assert chord.power(40) == [41, 48, 53]
        assert chord.bass(28) == [29, 33, 36, 41]
        assert chord.root == 5
