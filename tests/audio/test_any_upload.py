"""Whatever audio is sent: it is used in time and in tune, or refused for the right reason."""

from __future__ import annotations

import asyncio
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from acestep.audio.decode import AudioLimits, probe, read
from acestep.domain.song import AudioClip
from acestep.rest.deps import provide
from tests.audio.sounds import File, encode
from tests.audio.test_headers import extensible, form, pcm, riff, wave64
from tests.rest.conftest import running

NAME = "my song"
CLOSE = 0.05  # seconds
ALIKE = 0.98


@dataclass(frozen=True)
class Kind:
    container: str
    codec: str
    fed: str  # the sample format
    rates: tuple[int, ...]
    layouts: tuple[str, ...] = ("mono", "stereo")
    shows_damage: bool = True  # zeros in the middle are noticed
    is_exact: bool = False  # a cut file is refused


PCM_RATES = (8000, 11025, 22050, 44100, 48000, 96000)
MANY = ("mono", "stereo", "5.1")
KINDS = {
    **{
        f"wav {codec}": Kind("wav", codec, fed, PCM_RATES, MANY, shows_damage=False, is_exact=True)
        for codec, fed in (
            *(("pcm_u8", "u8"), ("pcm_s16le", "s16"), ("pcm_s24le", "s32"), ("pcm_s32le", "s32")),
            *(("pcm_f32le", "flt"), ("pcm_f64le", "dbl")),
        )
    },
    "w64": Kind("w64", "pcm_s16le", "s16", PCM_RATES, MANY, shows_damage=False, is_exact=True),
    "aiff": Kind("aiff", "pcm_s16be", "s16", PCM_RATES, shows_damage=False, is_exact=True),
    "au": Kind("au", "pcm_s16be", "s16", PCM_RATES, shows_damage=False, is_exact=True),
    "caf": Kind("caf", "pcm_s16le", "s16", PCM_RATES, shows_damage=False, is_exact=True),
    "flac": Kind("flac", "flac", "s16", PCM_RATES, MANY, is_exact=True),
    "mp3": Kind("mp3", "libmp3lame", "flt", (16000, 22050, 24000, 32000, 44100, 48000)),
    "ogg vorbis": Kind("ogg", "libvorbis", "flt", (8000, 16000, 22050, 44100, 48000)),
    "ogg opus": Kind("ogg", "libopus", "flt", (8000, 16000, 24000, 48000)),
    "webm": Kind("webm", "libopus", "flt", (48000,)),
    "matroska flac": Kind("matroska", "flac", "s16", (44100, 48000)),
    "m4a": Kind("ipod", "aac", "flt", (16000, 22050, 32000, 44100, 48000)),
    "adts": Kind("adts", "aac", "flt", (44100, 48000)),
}
SUFFIXES = {"matroska": "mka", "ipod": "m4a", "adts": "aac"}
CHANNELS = {"mono": 1, "stereo": 2, "5.1": 6}


def tune(samples: int, rate: int, channels: int = 2) -> NDArray[np.float32]:
    """A rising tone on the left and a falling one on the right, `[channels, samples]`; the rest is silent."""
    t = np.arange(samples) / rate
    sides = [
        0.5 * np.sin(2 * np.pi * (180 * t + 150 * t**2)),
        0.4 * np.sin(2 * np.pi * (500 * t - 90 * t**2)),
    ]
    sound = np.zeros((channels, samples), np.float32)
    sound[:2] = np.stack(sides)[:channels]
    return sound


def likeness(clip: AudioClip, seconds: float) -> float:
    """How much the first `seconds` are like the tune, up to a codec's delay; the worse side counts."""
    count, most = round(seconds * clip.sample_rate), round(CLOSE * clip.sample_rate)
    worst = 1.0
    for found, sent in zip(clip.samples[:, : count + most], tune(count, clip.sample_rate), strict=True):
        size = len(found) + len(sent)
        cross = np.fft.irfft(np.fft.rfft(found, size) * np.conj(np.fft.rfft(sent, size)), size)
        late = int(np.argmax(np.concatenate([cross[-most:], cross[: most + 1]]))) - most
        pair = found[max(0, late) :], sent[max(0, -late) :]
        both = min(map(len, pair))
        assert both > 0.8 * count
        worst = min(worst, float(np.corrcoef(pair[0][:both], pair[1][:both])[0, 1]))
    return worst


@dataclass(frozen=True)
class Upload:
    """A file, how long its sound is, and what is wrong with it."""

    content: bytes
    suffix: str
    seconds: float
    fault: str = ""  # "", harmless, cut, damaged, loud, short, no number
    is_exact: bool = False
    is_mono: bool = False


@dataclass
class Studio:
    """Sends uploads to a server without an engine; `folder` is for files on the way."""

    post: Callable[[str, bytes], tuple[int, dict[str, Any], str]]
    folder: Path


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    folder = tmp_path_factory.mktemp("uploads")
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        server = runner.run(stack.enter_async_context(running(folder, max_waiting=10_000)))
        look = partial(probe, limits=AudioLimits())
        provide(server.app, replace(server.app.state.services, probe=look))

        async def post(name: str, content: bytes) -> tuple[int, dict[str, Any], str]:
            form = {"task_type": "cover", "prompt": "a song"}
            answer = await server.client.post(
                "/release_task", data=form, files={"src_audio": (name, content)}
            )
            if answer.status_code != 200:
                assert list(server.uploads.iterdir()) == []
                return answer.status_code, answer.json(), ""
            (view,) = await server.queue.find([answer.json()["data"]["task_id"]])
            assert view is not None
            return 200, answer.json()["data"], view.job.request.task.source

        yield Studio(lambda name, content: runner.run(post(name, content)), folder)
        runner.run(stack.aclose())


def encoded(folder: Path, draw: st.DrawFn) -> Upload:
    kind = KINDS[draw(st.sampled_from(sorted(KINDS)))]
    rate, layout = draw(st.sampled_from(kind.rates)), draw(st.sampled_from(kind.layouts))
    samples = draw(st.integers(round(0.4 * rate), rate))
    fault = draw(st.sampled_from(["", "", "cut", "damaged"] if kind.shows_damage else ["", "", "", "cut"]))
    suffix = SUFFIXES.get(kind.container, kind.container)
    file = File(f"a.{suffix}", kind.container, kind.codec, rate, layout, kind.fed)
    content = encode(folder, file, tune(samples, rate, CHANNELS[layout])).read_bytes()
    if fault == "cut":
        least = 0 if draw(st.integers(0, 3)) == 0 else len(content) // 2
        content = content[: draw(st.integers(least, len(content) * 9 // 10))]
    elif fault == "damaged":
        start = draw(st.integers(len(content) // 2, len(content) * 3 // 4))
        count = draw(st.integers(len(content) // 20, len(content) // 5))
        content = content[:start] + bytes(count) + content[start + count :]
    return Upload(content, suffix, samples / rate, fault, kind.is_exact, layout == "mono")


def by_hand(folder: Path, draw: st.DrawFn) -> Upload:
    """A WAV or Wave64 with a header that says what is not so."""
    channels, container = draw(st.sampled_from([1, 2])), draw(st.sampled_from([16, 24, 32]))
    valid = draw(st.integers(container - 7 if container == 16 else 17, container))
    samples = draw(st.integers(20_000, 48_000))
    sound = tune(samples, 48_000, channels)
    fault = draw(st.sampled_from(["", "harmless", "cut", "loud", "short", "no number"]))
    if fault in ("loud", "no number"):
        sound *= np.float32(draw(st.floats(2.5, 100))) if fault == "loud" else 1
        if fault == "no number":
            sound[-1, draw(st.integers(0, samples - 1))] = draw(st.sampled_from([np.nan, np.inf, -np.inf]))
        path = riff(folder / "a.wav", form(32, 32, 3, channels), sound.T.astype("<f4").tobytes())
        return Upload(path.read_bytes(), "wav", samples / 48_000, fault, is_mono=channels == 1)
    if fault == "short":
        sound = sound[:, : draw(st.integers(1, 4799))]
    data, header = pcm(sound, valid, container), extensible(valid, container, channels=channels)
    if draw(st.booleans()):
        header = form(draw(st.sampled_from([valid, container])), container, 1, channels)
    stated = len(data)
    if fault == "harmless":
        stated = draw(st.sampled_from([0]) | st.integers(1_000_000_000, 2**32 - 1))
        if draw(st.booleans()):  # the sizes of a frame and a second are nonsense
            nonsense = draw(st.integers(0, 65_535)) | 1, draw(st.sampled_from([0, 1, 7]))
            header = header[:8] + struct.pack("<IH", *nonsense) + header[14:]
            if header[:2] == b"\x01\x00":
                header = header[:14] + struct.pack("<H", container) + header[16:]
    elif fault == "cut":
        stated += draw(st.integers(48_000, 10_000_000))
    write = draw(st.sampled_from([riff, wave64]))
    if write is wave64 and fault in ("harmless", "cut"):
        stated += 24 if stated else 0
        path = wave64(folder / "a.w64", header, data, stated)
    else:
        path = (
            write(folder / "a.wav", header, data)
            if stated == len(data)
            else riff(folder / "a.wav", header, data, stated, min(stated + 36, 2**32 - 1))
        )
    return Upload(path.read_bytes(), path.suffix[1:], samples / 48_000, fault, True, channels == 1)


REASONS = {
    "cut": r"cut off|cannot be read as audio.*whole and undamaged|it is empty|holds no audio|too short",
    "damaged": r"is damaged|cannot be read as audio.*whole and undamaged|holds no audio",
    "short": r"too short to work on: send 0\.1 s or more",
    "no number": r"some of its samples are not numbers",
}


def check(studio: Studio, upload: Upload) -> None:
    name = f"{NAME}.{upload.suffix}"
    status, answer, path = studio.post(name, upload.content)
    event(f"{upload.fault or 'whole'}: {status}")
    if status != 200:
        assert status == 415, answer
        assert name in answer["error"] or "is empty" in answer["error"]
        assert re.search(REASONS.get(upload.fault, "no reason"), answer["error"]), answer["error"]
        return
    assert upload.fault not in ("short", "no number")
    assert not (upload.fault == "cut" and upload.is_exact)
    warned = [warning for warning in answer["warnings"] if warning.startswith(f"src_audio: {name} ")]
    clip = read(Path(path))
    Path(path).unlink()
    if upload.is_mono:
        left = clip.samples[0]
        np.testing.assert_array_equal(left, clip.samples[1])
        clip = AudioClip(np.stack([left, tune(len(left), clip.sample_rate)[1]]), clip.sample_rate)
    if upload.fault in ("cut", "damaged") and warned:
        assert "was cut off" in warned[0] or "is damaged" in warned[0]
        assert clip.duration <= upload.seconds + CLOSE
        if upload.fault == "cut":
            assert likeness(clip, 0.9 * clip.duration) >= ALIKE
        return
    if upload.fault == "cut" and upload.suffix == "aac":  # may end with a frame by chance
        assert likeness(clip, clip.duration) >= ALIKE
        return
    assert len(warned) == (upload.fault == "loud"), answer["warnings"]
    assert abs(clip.duration - upload.seconds) <= CLOSE
    assert likeness(clip, upload.seconds) >= ALIKE


@settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_it_is_used_as_it_is_or_refused_for_what_is_wrong(studio: Studio, data: st.DataObject) -> None:
    make = data.draw(st.sampled_from([encoded, by_hand]))
    check(studio, data.draw(st.composite(lambda draw: make(studio.folder, draw))()))
