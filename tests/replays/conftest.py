"""One real server for all clients that are replayed; each does what its program does, and no more."""

import io
from collections.abc import Iterator
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from acestep.audio.encode import FileSpec, write
from tests.audio.sounds import music
from tests.live_server import LiveServer, WarmServer

SECONDS = 10
# As short and as coarse as songs may be.
QUICK: dict[str, Any] = {"audio_duration": SECONDS, "inference_steps": 1, "batch_size": 1}


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with WarmServer(tmp_path_factory.mktemp("replays") / "data") as live:
        live.wait_ready()
        yield live


KEY = "sk-ours"


@pytest.fixture(scope="package")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """Another server, which asks for KEY."""
    env = {"ACESTEP_API_KEY": KEY}
    with WarmServer(tmp_path_factory.mktemp("locked") / "data", env) as live:
        live.client.headers["Authorization"] = f"Bearer {KEY}"
        live.wait_ready()
        yield live


@pytest.fixture(scope="package")
def take(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Something that somebody recorded: a WAV file as long as the songs here."""
    path = tmp_path_factory.mktemp("takes") / "take.wav"
    write(music(SECONDS * 48_000), path, FileSpec("wav"))
    return path.read_bytes()


def decoded(content: bytes, container: str) -> tuple[NDArray[np.float32], int]:
    """The samples `[channels, samples]` of a file, and their rate in Hz; sees that it is of its kind."""
    with av.open(io.BytesIO(content)) as file:
        assert container in file.format.name.split(",")
        stream = file.streams.audio[0]
        rate = stream.codec_context.sample_rate
        planar = av.AudioResampler("fltp")
        parts = [part.to_ndarray() for frame in file.decode(stream) for part in planar.resample(frame)]
    return np.concatenate(parts, axis=1), rate


def assert_is_music(content: bytes, container: str, seconds: float = SECONDS) -> None:
    """See that a file is of its kind, as long as asked, and not silent."""
    samples, rate = decoded(content, container)
    assert samples.shape[1] / rate == pytest.approx(seconds, abs=0.1)
    loudness = 20 * np.log10(np.sqrt(np.mean(samples**2)))
    assert loudness > -40  # dB below full scale; songs come out at about -20
