"""Start the real server, make one song with nano, and check that it is music: length, level, life.

uv run python -m scripts.smoke
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from acestep.audio.decode import read
from acestep.domain.song import AudioClip
from tests.live_server import LiveServer

SECONDS = 20.0
WISH = {
    "prompt": "upbeat piano pop, 120 bpm, C major",
    "bpm": 120,
    "key_scale": "C major",
    "audio_duration": SECONDS,
    "batch_size": 1,
    "seed": 7,
}


def main() -> int:
    """Return the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        with LiveServer(Path(folder) / "data") as server:
            healthy = time.monotonic() - started
            server.wait_ready()
            asked = time.monotonic()
            ((song,),) = server.wait_for([server.submit(**WISH)], seconds=300)
            took = time.monotonic() - asked
            if not song["file"]:
                sys.stderr.write(f"smoke: the song failed: {song['error']}\n")
                return 1
            path = Path(folder) / "song.mp3"
            path.write_bytes(server.download(song))
        complaints = list(faults(read(path)))
    sys.stderr.write(f"smoke: /health after {healthy:.1f} s, a {SECONDS:g} s song in {took:.1f} s\n")
    for complaint in complaints:
        sys.stderr.write(f"smoke: {complaint}\n")
    return 1 if complaints else 0


def faults(clip: AudioClip) -> list[str]:
    """What is wrong with a clip that ought to be music."""
    found = []
    if abs(clip.duration - SECONDS) > 0.05:
        found.append(f"the song is {clip.duration:.2f} s long instead of {SECONDS:g}")
    if clip.samples.shape[0] != 2:
        found.append(f"the song has {clip.samples.shape[0]} channels instead of 2")
    mono = clip.samples.mean(axis=0)
    seconds = mono[: len(mono) // clip.sample_rate * clip.sample_rate].reshape(-1, clip.sample_rate)
    levels = np.sqrt((seconds**2).mean(axis=1))
    if levels.min() < 1e-3:
        found.append(f"second {int(levels.argmin())} is silent")
    # A tone, or noise, has the same spectrum all the time; in music it changes.
    spectra = np.abs(np.fft.rfft(seconds * np.hanning(clip.sample_rate)))[:, 20:5000]
    spectra /= np.linalg.norm(spectra, axis=1, keepdims=True)
    alike = float((spectra[1:] * spectra[:-1]).sum(axis=1).mean())
    if alike > 0.98:
        found.append(f"the sound does not change from second to second (similarity {alike:.3f})")
    return found


if __name__ == "__main__":
    sys.exit(main())
