from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from training.nano.music.composer import MAX_BPM, MIN_BPM, compose
from training.nano.music.facts import cut, cut_starts
from training.nano.music.instruments import INSTRUMENTS, LEADS, track_of
from training.nano.music.piece import BEATS, DRUMS, LEAD_IN, PERCUSSION, Note, Piece, Wish
from training.nano.music.styles import STYLES
from training.nano.theory import KEY_SCALES, Key

LENGTHS = (10.0, 15.0, 20.0, 30.0, 45.0, 60.0)
MAJOR, MINOR = {0, 2, 4, 5, 7, 9, 11}, {0, 2, 3, 5, 7, 8, 10}


@pytest.fixture(scope="module")
def pieces() -> list[Piece]:
    return [compose(seed, LENGTHS[seed % len(LENGTHS)]) for seed in range(360)]


def pitched(piece: Piece) -> list[Note]:
    return [note for note in piece.notes if note.stem not in (DRUMS, PERCUSSION)]


def bar_of(piece: Piece) -> float:
    return BEATS[piece.facts.time_signature] * 60.0 / piece.facts.bpm


def test_the_same_seed_and_wish_give_the_same_piece() -> None:
    assert compose(5) == compose(5, wish=Wish())
    assert compose(5, wish=Wish(bpm=90)) == compose(5, wish=Wish(bpm=90))
    assert compose(5).notes != compose(6).notes


def test_there_is_much_to_choose_from() -> None:
    assert len(STYLES) == 32
    assert len(INSTRUMENTS) == 38
    assert {metre for style in STYLES for metre in style.grooves} == {"2", "3", "4", "6"}


class TestTime:
    def test_a_piece_begins_after_the_lead_in_and_ends_before_its_length(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            starts = [note.start for note in piece.notes]
            assert starts == sorted(starts)
            assert LEAD_IN - 1e-9 <= starts[0] < LEAD_IN + 2 * bar_of(piece)
            assert max(note.end for note in piece.notes) < piece.facts.seconds
            assert all(note.end - note.start > 0.01 for note in piece.notes)

    def test_the_last_chord_stands_on_a_downbeat_and_has_time_to_ring(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            ending = piece.sections[-1]
            assert ending.name == "ending"
            bars = (ending.start - LEAD_IN) / bar_of(piece)
            assert abs(bars - round(bars)) < 1e-6
            assert 1.8 - 1e-6 <= piece.facts.seconds - ending.start < 1.8 + bar_of(piece)
            final = {note.stem for note in piece.notes if note.start >= ending.start - 1e-6}
            assert set(piece.facts.heard) & final or piece.facts.solo == DRUMS
            # After two strikes at most, nothing begins any more.
            assert max(note.start for note in piece.notes) < ending.start + 60 / piece.facts.bpm + 0.5

    def test_the_last_chord_is_the_tonic(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            last = [note for note in pitched(piece) if note.start >= piece.sections[-1].start - 1e-6]
            if last and piece.facts.key_scale:
                chord = Key.parse(piece.facts.key_scale).chord("I")
                power = {(chord.root + 7) % 12}
                assert {note.pitch % 12 for note in last} <= set(chord.tones) | power

    def test_sections_follow_one_another_without_a_gap(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            assert piece.sections[0].start == pytest.approx(LEAD_IN)
            assert piece.sections[-1].end == piece.facts.seconds
            for before, after in pairwise(piece.sections):
                assert before.end == pytest.approx(after.start)

    def test_onsets_lie_on_the_grid_where_nothing_swings(self) -> None:
        piece = compose(3, 30.0, Wish(style="house", bpm=120))
        sixteenth = 60 / 120 / 4
        within = [
            (note.start - LEAD_IN) / sixteenth
            for note in piece.notes
            if note.start < piece.sections[-1].start
        ]
        assert all(abs(steps - round(steps)) < 1e-6 for steps in within)

    @pytest.mark.parametrize("seconds", [8.0, 11.3, 240.0, 600.0])
    def test_any_length_can_be_had(self, seconds: float) -> None:
        piece = compose(9, seconds)
        assert piece.facts.seconds == piece.facts.place.whole == seconds
        assert piece.sections[-1].end == seconds
        assert piece.notes[-1].start > seconds - 8


class TestForm:
    def test_parts_come_again(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            if len(piece.sections) > 5 and piece.material.form != "blues":
                letters = Counter(section.letter for section in piece.sections)
                assert letters.most_common(1)[0][1] > 1

    def test_what_comes_again_has_the_same_rhythm_of_chords_but_not_always_the_same_tune(self) -> None:
        changed = 0
        for seed in range(40):
            piece = compose(seed, 45.0, Wish(style="folk", ensemble=("flute", "acoustic guitar")))
            first, second = [part for part in piece.sections if part.letter == "A" and part.name != "intro"][
                :2
            ]
            tunes = [
                [
                    (round(note.start - part.start, 4), note.pitch)
                    for note in piece.notes
                    if note.stem == "flute" and part.start - 1e-6 <= note.start < part.end - 1e-6
                ]
                for part in (first, second)
            ]
            changed += tunes[0] != tunes[1]
        assert 8 < changed < 40

    def test_density_develops(self, pieces: list[Piece]) -> None:
        growing = 0
        bands = [piece for piece in pieces if len(piece.stems) > 3 and piece.facts.seconds >= 30]
        for piece in bands:
            levels = [section.level for section in piece.sections[:-1]]
            growing += len(set(levels)) > 1 and levels[0] < max(levels)
        assert len(bands) > 60
        assert growing / len(bands) > 0.95


class TestHarmony:
    def test_notes_belong_to_the_key(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            if piece.facts.key_scale is None:
                continue
            key = Key.parse(piece.facts.key_scale)
            degrees = {(note.pitch - key.tonic) % 12 for note in pitched(piece)}
            assert degrees <= (MAJOR if key.mode == "major" else MINOR | {11})

    def test_instruments_play_what_they_can(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            for note in pitched(piece):
                instrument = INSTRUMENTS[note.stem]
                assert instrument.low - 5 <= note.pitch <= instrument.high + 7, (piece.seed, note)
                assert 1 <= note.velocity <= 127


class TestFacts:
    def test_everything_turns_up(self, pieces: list[Piece]) -> None:
        facts = [piece.facts for piece in pieces]
        assert {each.style for each in facts} == {style.name for style in STYLES}
        assert {name for each in facts for name in each.heard} == set(INSTRUMENTS)
        assert {each.key_scale for each in facts} == {*KEY_SCALES, None}
        assert {each.time_signature for each in facts} == {"2", "3", "4", "6"}
        assert {each.density for each in facts} == {"sparse", "medium", "dense"}
        assert {each.register for each in facts} == {"low", "mid", "high", None}
        assert {each.energy for each in facts} == {0, 1, 2}
        assert 0.35 < sum(each.has_drums for each in facts) / len(facts) < 0.65
        assert 0.12 < sum(each.solo not in (None, DRUMS) for each in facts) / len(facts) < 0.35
        assert all(MIN_BPM <= each.bpm <= MAX_BPM for each in facts)

    def test_what_is_said_to_sound_has_notes(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            stems = {note.stem for note in piece.notes}
            assert set(piece.facts.heard) == stems - {DRUMS, PERCUSSION}
            assert set(piece.facts.instruments) <= set(piece.facts.heard)
            assert piece.facts.has_drums == (DRUMS in stems)
            assert {stem.name for stem in piece.stems} == stems

    def test_drums_play_through_most_of_a_piece_that_has_them(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            if piece.facts.has_drums and piece.facts.seconds >= 20:
                struck = {int(note.start) for note in piece.notes if note.stem == DRUMS}
                assert len(struck) > 0.25 * piece.facts.seconds, piece.seed

    def test_all_instruments_belong_to_a_track_of_the_server(self) -> None:
        from acestep.domain.song import TRACKS

        assert {track_of(name) for name in (*INSTRUMENTS, DRUMS, PERCUSSION)} <= set(TRACKS)


class TestWishes:
    @pytest.mark.parametrize("name", sorted(INSTRUMENTS))
    def test_any_instrument_alone(self, name: str) -> None:
        facts = compose(2, 12.0, Wish(ensemble=(name,), drums=False)).facts
        assert facts.solo == name
        assert facts.instruments == (name,)

    def test_drums_alone_have_no_key(self) -> None:
        piece = compose(2, 12.0, Wish(ensemble=()))
        assert piece.facts.solo == DRUMS
        assert piece.facts.key_scale is piece.facts.register is piece.facts.lead is None

    def test_an_ensemble_is_exactly_that(self) -> None:
        wish = Wish("jazz", 120, "F major", "4", ("trumpet", "piano", "double bass"), drums=True)
        facts = compose(4, 20.0, wish).facts
        assert (facts.style, facts.bpm, facts.key_scale, facts.time_signature) == (
            "jazz",
            120,
            "F major",
            "4",
        )
        assert set(facts.heard) == {"trumpet", "piano", "double bass"}
        assert facts.has_drums
        assert facts.lead == "trumpet"

    @pytest.mark.parametrize(("register", "lowest", "highest"), [("low", 40, 60), ("high", 76, 100)])
    def test_a_register(self, register: str, lowest: int, highest: int) -> None:
        # From the piano's deepest octaves to its highest.
        piece = compose(1, 20.0, Wish(style="folk", ensemble=("marimba", "double bass"), register=register))
        tune = [note.pitch for note in piece.notes if note.stem == "marimba"]
        assert lowest <= sum(tune) / len(tune) <= highest
        assert piece.facts.register == register

    @pytest.mark.parametrize(
        ("wish", "says"),
        [
            (Wish(style="polka"), "style 'polka' is unknown"),
            (Wish(bpm=20), "bpm 20 cannot be played"),
            (Wish(ensemble=("kazoo",)), "instrument 'kazoo' is unknown"),
            (Wish(style="waltz", time_signature="4"), "waltz is played in 3"),
            (Wish(ensemble=(), drums=False), "silence"),
        ],
    )
    def test_what_cannot_be_is_refused(self, wish: Wish, says: str) -> None:
        with pytest.raises(ValueError, match=says):
            compose(1, 20.0, wish)

    def test_too_short_is_refused(self) -> None:
        with pytest.raises(ValueError, match="seconds 5 is too short"):
            compose(1, 5.0)


class TestCovers:
    def test_a_cover_keeps_melody_and_harmony(self) -> None:
        source = compose(
            7, 30.0, Wish("folk", 110, "G major", "4", ("flute", "acoustic guitar"), drums=False)
        )
        wish = Wish(
            "rock", 110, "G major", "4", ("violin", "distorted guitar"), True, material=source.material
        )
        cover = compose(8, 30.0, wish)
        assert set(cover.facts.heard) == {"violin", "distorted guitar"}
        tunes = [
            [(round(note.start, 3), note.pitch % 12) for note in piece.notes if note.stem == lead]
            for piece, lead in ((source, "flute"), (cover, "violin"))
        ]
        shared = len(set(tunes[0]) & set(tunes[1])) / len(set(tunes[0]))
        assert shared > 0.9


class TestCuts:
    def test_a_cut_says_where_it_lies(self) -> None:
        piece = compose(11, 40.0)
        start = cut_starts(piece)[3]
        middle = cut(piece, start, 10.0)
        assert start == pytest.approx(3 * bar_of(piece))
        place = middle.facts.place
        assert (place.start, place.whole, place.starts, place.ends) == (start, 40.0, False, False)
        assert middle.facts.seconds == 10.0
        assert cut(piece, 0.0, 10.0).facts.place.starts
        assert cut(piece, 30.0, 10.0).facts.place.ends

    def test_a_cut_knows_only_what_sounds_in_it(self) -> None:
        piece = next(
            each
            for each in (compose(seed, 40.0) for seed in range(99))
            if each.facts.has_drums and each.sections[0].name == "intro" and each.facts.heard
        )
        intro = cut(piece, 0.0, piece.sections[0].end - 0.1)
        assert not intro.facts.has_drums
        assert set(intro.facts.heard) < set(piece.facts.heard) or len(piece.facts.heard) == 1

    def test_cuts_outside_are_refused(self) -> None:
        with pytest.raises(ValueError, match="lies outside of 20 s"):
            cut(compose(1, 20.0), 15.0, 10.0)


def test_leads_are_many() -> None:
    assert len(LEADS) >= 30
