from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from training.nano.music.composer import compose
from training.nano.music.piece import Wish
from training.nano.sound.mixing import SAMPLE_RATE, loudness
from training.nano.sound.store import Order, Rendered, Store, fill, render


def rendered() -> Rendered:
    piece = compose(3, 8.0, Wish(ensemble=("flute", "harp"), drums=False))
    ramp = np.linspace(-0.5, 0.5, 8 * SAMPLE_RATE, dtype=np.float32)
    return Rendered(piece, {"flute": np.stack([ramp, ramp]), "harp": np.stack([-ramp, 0.25 * ramp])})


def test_what_is_written_is_read(tmp_path: Path) -> None:
    order, store, made = Order(3, 8.0), Store(tmp_path), rendered()
    assert not store.has(order)
    store.write(order, made)
    assert store.has(order)
    found = store.read(order)
    assert found.piece == made.piece
    assert list(found.stems) == [stem.name for stem in made.piece.stems]
    for name, audio in made.stems.items():
        assert np.abs(found.stems[name] - audio).max() < 1e-4
    assert np.abs(found.mix - made.mix).max() < 2e-4
    assert list(tmp_path.glob("*.partial")) == []


def test_orders_that_differ_have_folders_of_their_own() -> None:
    orders = [Order(3, 8.0), Order(3, 9.0), Order(4, 8.0), Order(3, 8.0, Wish(bpm=90)), Order(3, 8.0, font=1)]
    assert len({order.name for order in orders}) == 5
    assert Order(3, 8.0).name == Order(3, 8.0).name


def test_only_what_is_missing_is_rendered(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write(Order(3, 8.0), rendered())
    fill(store, [Order(3, 8.0)], processes=1)  # would need FluidSynth
    assert len(list(tmp_path.iterdir())) == 1


@pytest.fixture(scope="module")
def made() -> list[Rendered]:
    try:
        from training.nano.sound.synth import SOUNDFONTS, StemSynth
    except ImportError:
        pytest.skip("FluidSynth is not installed")
    if not SOUNDFONTS[0].exists():
        pytest.skip("the SoundFont is not installed")
    pieces = [
        compose(3, 10.0, Wish("folk", 110, "G major", "4", ("flute",), drums=False)),
        compose(4, 10.0, Wish("rock", 120, "E minor", "4", ("electric guitar", "organ"), drums=True)),
        compose(3, 10.0, Wish("folk", 110, "G major", "4", ("flute",), drums=False)),
    ]
    with StemSynth(SOUNDFONTS[0]) as synth:
        return [render(piece, synth) for piece in pieces]


class TestWithFluidSynth:
    """Skipped where FluidSynth or the SoundFont is missing."""

    def test_the_same_piece_sounds_the_same_to_the_bit(self, made: list[Rendered]) -> None:
        assert np.array_equal(made[0].mix, made[2].mix)

    def test_pieces_begin_and_end_in_silence_and_are_as_loud(self, made: list[Rendered]) -> None:
        for each in made:
            audio = each.mix
            assert audio.shape == (2, 10 * SAMPLE_RATE)
            assert np.abs(audio[:, :240]).max() == 0.0
            assert np.abs(audio[:, -240:]).max() == 0.0
            assert np.abs(audio).max() <= 10 ** (-1 / 20)
            assert loudness(audio, SAMPLE_RATE) == pytest.approx(-18.0, abs=0.5)

    def test_every_stem_sounds(self, made: list[Rendered]) -> None:
        assert set(made[1].stems) == {"electric guitar", "organ", "drums"}
        for audio in made[1].stems.values():
            assert loudness(audio, SAMPLE_RATE) > -35
