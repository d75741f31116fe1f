from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from benchmarks.nano_detector import (
    FRAMES,
    LABELS,
    WEIGHTS,
    Detector,
    Network,
    Window,
    batch,
    decibels,
    orders,
    solo_is,
    windows_of,
)
from training.nano.music.composer import compose
from training.nano.music.piece import DRUMS, Wish
from training.nano.sound.mixing import SAMPLE_RATE
from training.nano.sound.store import Rendered, render


def test_levels_are_relative_to_the_loudest_band() -> None:
    power = torch.full((1, 80, FRAMES), 1e-5)
    power[0, 10, 3] = 1.0  # 50 dB above the rest
    power[0, 11, 3] = 1e-12  # far below what counts
    level = decibels(power)
    assert level[0, 10, 3] == 1.0
    assert level[0, 0, 0].item() == pytest.approx(1 - 50 / 70)
    assert level[0, 11, 3].item() == pytest.approx(0.0)
    assert torch.allclose(decibels(1000 * power), level)


def test_mixtures_have_the_labels_of_their_stems() -> None:
    # Each label lights a band of its own.
    by_label = []
    for label in range(len(LABELS)):
        window = np.zeros((80, FRAMES), dtype=np.float32)
        window[label] = 1.0 + label
        by_label.append([Window(window, label)])
    power, labels = batch(by_label, random.Random(0))
    lit = power.sum(dim=2)[:, : len(LABELS)] > 0
    assert torch.equal(lit, labels.bool())
    assert set(labels.sum(dim=1).int().tolist()) == {1, 2, 3, 4, 5, 6}


def test_silence_has_no_instruments() -> None:
    silence = np.zeros((2, 3 * SAMPLE_RATE), dtype=np.float32)
    assert Detector(Network()).playing(silence) == set()


def test_windows_are_those_in_which_a_stem_plays() -> None:
    piece = compose(1, 12.0, Wish(ensemble=("flute",), drums=False))
    time = np.arange(12 * SAMPLE_RATE) / SAMPLE_RATE
    wave = np.where(time < 6, 0.1 * np.sin(2 * np.pi * 440 * time), 0.0).astype(np.float32)
    found = windows_of(Rendered(piece, {"flute": np.stack([wave, wave])}))
    assert [window.label for window in found] == [LABELS.index("flute")] * 3  # 2.7 s each
    assert found[0].power.shape == (80, FRAMES)


def test_a_solo_is_right_where_nothing_is_surer_and_drums_are_silent() -> None:
    sure = dict.fromkeys(LABELS, 0.1)
    assert solo_is(sure | {"flute": 0.8, "oboe": 0.6}, "flute")
    assert not solo_is(sure | {"flute": 0.8, "oboe": 0.9}, "flute")
    assert not solo_is(sure | {"flute": 0.8, DRUMS: 0.6}, "flute")
    assert solo_is(sure | {DRUMS: 0.6}, DRUMS)


def test_every_label_is_trained_on_with_both_soundfonts() -> None:
    wanted = orders(0, 4, 2)
    alone = [(order.wish.ensemble, order.font) for order in wanted if order.wish.ensemble]
    assert {names[0] for names, _ in alone if names} == set(LABELS) - {DRUMS}
    assert len(set(alone)) == 2 * (len(LABELS) - 1)
    assert len({order.name for order in wanted}) == len(wanted)


@pytest.mark.parametrize(
    ("ensemble", "drums"),
    [(("flute",), False), (("piano",), False), (("distorted guitar",), False), ((), True)],
)
def test_the_committed_weights_tell_rendered_solos(ensemble: tuple[str, ...], drums: bool) -> None:
    synth = pytest.importorskip("training.nano.sound.synth", exc_type=ImportError)
    if not synth.SOUNDFONTS[0].exists() or not WEIGHTS.exists():
        pytest.skip("the SoundFont or the weights are not installed")
    piece = compose(3_000_000, 12.0, Wish("folk" if ensemble else "rock", ensemble=ensemble, drums=drums))
    with synth.StemSynth(synth.SOUNDFONTS[0]) as player:
        sure = Detector.load(WEIGHTS).probabilities(render(piece, player).mix)
    assert solo_is(sure, ensemble[0] if ensemble else DRUMS)
