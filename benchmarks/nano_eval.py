"""How well nano does what it is told, measured through the real server.

    uv run --group training python -m benchmarks.nano_eval [--songs 40] [--seconds 30]

Prompts are captions and facts of pieces that were never trained on. Beside the model stand the ceiling
(the same measures on those pieces, rendered by the composer) and chance (each song against the next
song's prompt).
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from acestep.audio.decode import read
from acestep.domain.song import AudioClip
from benchmarks.music import is_key, is_tempo, key, tempo
from tests.live_server import LiveServer
from training.nano.captions import caption
from training.nano.composer import Piece, compose
from training.nano.render import Renderer
from training.nano.train import SOUNDFONTS

_FIRST_SEED = 1_000_000  # training counts from 0


@dataclass(frozen=True, slots=True)
class Heard:
    """What was measured of one song."""

    bpm: float
    key_scale: str
    seconds: float


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--songs", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=JSON", help="more request fields"
    )
    parser.add_argument("--keep", type=Path, help="keep the songs in this folder")
    arguments = parser.parse_args()
    pieces = [compose(_FIRST_SEED + n, arguments.seconds) for n in range(arguments.songs)]
    more = {name: json.loads(value) for name, _, value in (field.partition("=") for field in arguments.set)}
    made = [listen(clip) for clip in track(make(pieces, more, arguments.keep), "model", total=len(pieces))]
    ceiling = [listen(clip) for clip in track(rendered(pieces), "ceiling", total=len(pieces))]
    report(pieces, made, ceiling)


def make(pieces: Sequence[Piece], more: dict[str, object], keep: Path | None) -> Iterator[AudioClip]:
    """Each piece's prompt, through a server, as sound."""
    own_planner = {"ACESTEP_INIT_LLM": "true"}  # used for thinking=true alone, since all facts are given
    with tempfile.TemporaryDirectory() as folder, LiveServer(Path(folder), own_planner) as server:
        server.wait_ready()
        for number, piece in enumerate(pieces):
            fields = {
                "prompt": caption(piece, random.Random(piece.seed)),
                "bpm": piece.bpm,
                "key_scale": piece.key_scale,
                "time_signature": piece.time_signature,
                "audio_duration": piece.seconds,
                "batch_size": 1,
                "seed": number,
                "audio_format": "wav",
            }
            (songs,) = server.wait_for([server.submit(**(fields | more))], seconds=600)
            path = (keep or Path(folder)) / f"song-{number:02d}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(server.download(songs[0]))
            yield read(path)


def rendered(pieces: Sequence[Piece]) -> Iterator[AudioClip]:
    """The pieces themselves, as sound."""
    with Renderer(SOUNDFONTS[0]) as renderer:
        for piece in pieces:
            yield AudioClip(renderer.render(piece), 48_000)


def listen(clip: AudioClip) -> Heard:
    """Measure one song."""
    return Heard(tempo(clip), key(clip), clip.duration)


def report(pieces: Sequence[Piece], made: Sequence[Heard], ceiling: Sequence[Heard]) -> None:
    """Print the shares of songs that are as they should be, and each song."""
    songs = Table("bpm", "heard", "key", "heard", "style")
    for piece, heard in zip(pieces, made, strict=True):
        songs.add_row(str(piece.bpm), f"{heard.bpm:.1f}", piece.key_scale, heard.key_scale, piece.style.name)
    table = Table("", "bpm within 4 %", "key, or its relative", "duration exact")
    shuffled = [*pieces[1:], pieces[0]]
    for name, wanted, heard_all in (
        ("nano", pieces, made),
        ("ceiling: the composer's rendering", pieces, ceiling),
        ("chance: another song's prompt", shuffled, made),
    ):
        pairs = list(zip(wanted, heard_all, strict=True))
        shares = (
            sum(is_tempo(heard.bpm, piece.bpm) for piece, heard in pairs),
            sum(is_key(heard.key_scale, piece.key_scale) for piece, heard in pairs),
            sum(heard.seconds == piece.seconds for piece, heard in pairs),
        )
        table.add_row(name, *(f"{100 * share / len(pairs):.0f} %" for share in shares))
    console = Console()
    console.print(songs)
    console.print(table)


if __name__ == "__main__":
    main()
