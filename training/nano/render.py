"""Scores to sound, with FluidSynth and a General MIDI SoundFont."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import fluidsynth
import numpy as np
from numpy.typing import NDArray

from training.nano.composer import DRUM_CHANNEL, Note, Piece

_PEAK = 0.9
_DRUM_BANK = 128
_TAIL = 4096  # samples a chunk
_LONGEST_TAIL = 480_000  # samples; measured: the slowest release is inaudible before that
_INAUDIBLE = 3  # of 32,767


class Renderer:
    """A context manager around one FluidSynth; `render` may be called thousands of times."""

    def __init__(self, soundfont: Path, sample_rate: int = 48_000) -> None:
        self._sample_rate = sample_rate
        # Room and chorus cost half the time, and smear in time what a small model should hear sharply.
        self._synth = fluidsynth.Synth(gain=0.5, samplerate=float(sample_rate))
        self._synth.setting("synth.reverb.active", 0)
        self._synth.setting("synth.chorus.active", 0)
        self._font = self._synth.sfload(str(soundfont))
        if self._font < 0:
            raise FileNotFoundError(f"{soundfont} cannot be loaded; it comes with a SoundFont package")

    def __enter__(self) -> Renderer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._synth.delete()

    def render(self, piece: Piece) -> NDArray[np.float32]:
        """Stereo `[2, samples]`, exactly as long as the piece, with its peak at 0.9."""
        self._silence()
        for channel, program in {(note.channel, note.program) for note in piece.notes}:
            bank = _DRUM_BANK if channel == DRUM_CHANNEL else 0
            self._synth.program_select(channel, self._font, bank, program)
        total = round(piece.seconds * self._sample_rate)
        audio = np.zeros(2 * total, dtype=np.float32)
        position = 0
        for time, is_on, note in _events(piece):
            until = min(total, round(time * self._sample_rate))
            if until > position:
                audio[2 * position : 2 * until] = self._synth.get_samples(until - position)
                position = until
            if is_on:
                self._synth.noteon(note.channel, note.pitch, note.velocity)
            else:
                self._synth.noteoff(note.channel, note.pitch)
        if position < total:
            audio[2 * position :] = self._synth.get_samples(total - position)
        peak = max(1.0, float(np.abs(audio).max()))
        return np.ascontiguousarray((audio * (_PEAK / peak)).reshape(-1, 2).T)

    def _silence(self) -> None:
        """Let the piece before die away: a reset ends notes, but their releases would ring into this one."""
        self._synth.system_reset()
        for _ in range(0, _LONGEST_TAIL, _TAIL):
            if np.abs(self._synth.get_samples(_TAIL)).max() <= _INAUDIBLE:
                break


def _events(piece: Piece) -> list[tuple[float, int, Note]]:
    """(seconds, whether it starts, note) in order; a note ends before the same one starts again."""
    events = [(note.start, 1, note) for note in piece.notes]
    events += [(note.end, 0, note) for note in piece.notes]
    return sorted(events, key=lambda event: (event[0], event[1]))
