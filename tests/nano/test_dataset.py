import itertools
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from acestep.codec.sine_bank import SineBankConfig
from acestep.domain.song import SongPlan
from training.nano.composer import compose
from training.nano.dataset import FRAME_RATE, RAW, Clip, examples, measure_scale, plans
from training.nano.theory import Key, enharmonic

FRAMES = 250
PITCH = 40  # a semitone channel
NOISE = RAW.semitones + 5  # a noise channel


def click_track(bpm: int = 120, key_scale: str = "A minor") -> Clip:
    """A held note on the channel of the tonic's pitch class, and a click on each beat."""
    piece = replace(compose(1), bpm=bpm, key_scale=key_scale, time_signature="4", notes=())
    decibels = np.full((750, 101), RAW.floor_db, dtype=np.float16)
    decibels[:, PITCH] = -20.0
    beats = np.arange(0, 750, 60 / bpm * FRAME_RATE).round().astype(int)
    decibels[beats[beats < 750], NOISE] = -10.0
    return Clip(piece, decibels)


def drawn(count: int, clip: Clip | None = None) -> list[tuple[torch.Tensor, SongPlan]]:
    stream = examples([clip or click_track()], FRAMES, random.Random(0))
    return [(example.decibels, example.plan) for example in itertools.islice(stream, count)]


def test_a_transposed_note_moves_with_the_key_that_is_told():
    tonic = Key.parse("A minor").tonic
    for decibels, plan in drawn(60):
        (pitch,) = torch.nonzero(decibels[100, : RAW.semitones] > -40).flatten().tolist()
        if plan.key_scale is not None:
            moved = (pitch - PITCH) % 12
            assert (Key.parse(plan.key_scale).tonic - tonic) % 12 == moved
            assert plan.key_scale.endswith("minor")


def test_clicks_come_at_the_tempo_that_is_told_from_the_first_frame_on():
    with_tempo = 0
    for decibels, plan in drawn(60):
        onsets = torch.nonzero(decibels[:, NOISE] > -45).flatten()
        assert onsets[0] <= 1  # crops start on a bar line
        if plan.bpm is not None:
            with_tempo += 1
            beats = (onsets[-1] - onsets[0]).item() / FRAME_RATE * plan.bpm / 60
            assert beats == pytest.approx(round(beats), abs=0.25)
    assert with_tempo > 30


def test_crops_have_the_asked_length_and_the_pool_is_never_changed():
    clip = click_track()
    before = clip.decibels.copy()
    assert {decibels.shape for decibels, _ in drawn(20, clip)} == {(FRAMES, 101)}
    np.testing.assert_array_equal(clip.decibels, before)


def test_a_piece_that_is_too_short_to_be_played_faster_is_passed_over():
    clip = click_track()
    stream = examples([Clip(clip.piece, clip.decibels[:FRAMES])], FRAMES, random.Random(0))
    assert len(next(stream).decibels) == FRAMES


def test_descriptions_cover_all_tempi_and_keys():
    pieces = [piece for piece, _ in itertools.islice(plans([click_track()], random.Random(0)), 2000)]
    assert len({piece.bpm for piece in pieces}) > 110
    assert len({piece.key_scale for piece in pieces}) == 12
    for piece, plan in itertools.islice(plans([click_track()], random.Random(1)), 200):
        assert plan.bpm in (None, piece.bpm)
        assert plan.key_scale in (None, piece.key_scale, enharmonic(piece.key_scale))


def test_the_measured_scale_makes_latents_standard():
    rng = np.random.default_rng(0)
    decibels = rng.normal(-50, 8, (750, 101)).astype(np.float16)
    decibels[:, RAW.semitones :] = rng.normal(-40, 5, (750, 13))
    scale = measure_scale([Clip(compose(1), decibels)])
    assert isinstance(scale, SineBankConfig)
    assert (scale.tone_mean_db, scale.tone_std_db) == pytest.approx((-50, 8), abs=0.2)
    assert (scale.noise_mean_db, scale.noise_std_db) == pytest.approx((-40, 5), abs=0.2)
