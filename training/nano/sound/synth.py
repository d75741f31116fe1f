"""One stem at a time, with FluidSynth and a General MIDI SoundFont."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ctypes import c_int, c_void_p
from pathlib import Path
from types import TracebackType

import fluidsynth
import numpy as np
from numpy.typing import NDArray

from training.nano.music.piece import Note, Piece, Stem
from training.nano.sound.mixing import SAMPLE_RATE

SOUNDFONTS = (
    Path("/usr/share/sounds/sf2/FluidR3_GM.sf2"),
    Path("/usr/share/sounds/sf3/MuseScore_General_Lite.sf3"),
)
_BLOCK = 64  # samples; FluidSynth begins notes at blocks, so pieces must begin there to be the same each time
_DRUM_BANK, _DRUM_CHANNEL = 128, 9
_PAN = 10  # the controller

# Sixteen-bit output would be dithered from a table that runs on from piece to piece.
_write_float = fluidsynth.cfunc(
    "fluid_synth_write_float",
    c_int,
    *(("synth", c_void_p, 1), ("len", c_int, 1)),
    *(("left", c_void_p, 1), ("left_offset", c_int, 1), ("left_step", c_int, 1)),
    *(("right", c_void_p, 1), ("right_offset", c_int, 1), ("right_step", c_int, 1)),
)
_get_font = fluidsynth.cfunc(
    "fluid_synth_get_sfont_by_id", c_void_p, ("synth", c_void_p, 1), ("id", c_int, 1)
)
_add_font = fluidsynth.cfunc("fluid_synth_add_sfont", c_int, ("synth", c_void_p, 1), ("font", c_void_p, 1))
_remove_font = fluidsynth.cfunc(
    "fluid_synth_remove_sfont", c_int, ("synth", c_void_p, 1), ("font", c_void_p, 1)
)
_set_log = fluidsynth.cfunc(
    "fluid_set_log_function", c_void_p, ("level", c_int, 1), ("function", c_void_p, 1), ("data", c_void_p, 1)
)
_WARNING = 2


class StemSynth:
    """A context manager around one loaded SoundFont; `render` may be called thousands of times."""

    def __init__(self, soundfont: Path) -> None:
        _set_log(_WARNING, None, None)  # a synth without a SoundFont warns of each of its channels
        self._owner = fluidsynth.Synth()
        number = self._owner.sfload(str(soundfont))
        if number < 0:
            raise FileNotFoundError(f"{soundfont} cannot be loaded; it comes with a SoundFont package")
        self._font = _get_font(self._owner.synth, number)

    def __enter__(self) -> StemSynth:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._owner.delete()

    @contextmanager
    def _fresh(self) -> Iterator[tuple[fluidsynth.Synth, int]]:
        # The voices of a synth remember what they played before; a new one takes 2 ms and plays the same
        # to the bit. Room and chorus cost half the time, and smear what a small model should hear sharply.
        synth = fluidsynth.Synth(gain=0.5, samplerate=float(SAMPLE_RATE), channels=16)
        synth.setting("synth.reverb.active", 0)
        synth.setting("synth.chorus.active", 0)
        try:
            yield synth, _add_font(synth.synth, self._font)
        finally:
            _remove_font(synth.synth, self._font)
            synth.delete()

    def render(self, piece: Piece, stem: Stem) -> NDArray[np.float32]:
        """Stereo `[2, samples]` of one stem, unlevelled, exactly as long as the piece."""
        total = round(piece.facts.seconds * SAMPLE_RATE)
        audio = np.zeros((2, -(-total // _BLOCK) * _BLOCK), dtype=np.float32)
        with self._fresh() as (synth, font):
            _play(synth, font, stem, [note for note in piece.notes if note.stem == stem.name], audio)
        return audio[:, :total]


def _play(
    synth: fluidsynth.Synth, font: int, stem: Stem, notes: Sequence[Note], audio: NDArray[np.float32]
) -> None:
    channel = _DRUM_CHANNEL if stem.is_drums else 0
    synth.program_select(channel, font, _DRUM_BANK if stem.is_drums else 0, stem.program)
    synth.cc(channel, _PAN, round(64 + 63 * stem.pan))
    blocks = audio.shape[1] // _BLOCK
    events = _events(notes)
    position = min(blocks, events[0][0]) if events else blocks  # nothing sounds before the first note
    for block, is_on, note in events:
        position = _advance(synth, audio, position, min(blocks, block))
        if is_on:
            synth.noteon(channel, note.pitch, note.velocity)
        else:
            synth.noteoff(channel, note.pitch)
    _advance(synth, audio, position, blocks)


def _advance(synth: fluidsynth.Synth, audio: NDArray[np.float32], start: int, end: int) -> int:
    if end > start:
        left, right = (channel[start * _BLOCK : end * _BLOCK].ctypes.data for channel in audio)
        _write_float(synth.synth, (end - start) * _BLOCK, left, 0, 1, right, 0, 1)
    return max(start, end)


def _events(notes: Sequence[Note]) -> list[tuple[int, int, Note]]:
    """(block, whether it starts, note) in order; a note ends before the same one starts again."""
    events = []
    for note in notes:
        events.append((round(note.start * SAMPLE_RATE / _BLOCK), 1, note))
        events.append((round(note.end * SAMPLE_RATE / _BLOCK), 0, note))
    return sorted(events, key=lambda event: (event[0], event[1], event[2].pitch))
