"""One real server for all clients that are replayed; each does what its program does, and no more."""

import io
from collections.abc import Iterator
from typing import Any

import av
import numpy as np
import pytest

from tests.live_server import LiveServer

SECONDS = 10
# As short and as coarse as songs may be.
QUICK: dict[str, Any] = {"audio_duration": SECONDS, "inference_steps": 1, "batch_size": 1}


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with LiveServer(tmp_path_factory.mktemp("replays") / "data") as live:
        live.wait_ready()
        yield live


def assert_is_music(content: bytes, container: str, seconds: float = SECONDS) -> None:
    """See that a file is of its kind, as long as asked, and not silent."""
    with av.open(io.BytesIO(content)) as file:
        assert container in file.format.name.split(",")
        stream = file.streams.audio[0]
        rate = stream.codec_context.sample_rate
        planar = av.AudioResampler("fltp")
        parts = [part.to_ndarray() for frame in file.decode(stream) for part in planar.resample(frame)]
    samples = np.concatenate(parts, axis=1)
    assert samples.shape[1] / rate == pytest.approx(seconds, abs=0.1)
    loudness = 20 * np.log10(np.sqrt(np.mean(samples**2)))
    assert loudness > -40  # dB below full scale; songs come out at about -20
