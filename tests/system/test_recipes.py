"""Songs of a real server again, from their recipes; and what else a real server finds out about them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from acestep.audio.decode import read
from acestep.domain.song import AudioClip
from tests.live_server import LiveServer, WarmServer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with WarmServer(tmp_path_factory.mktemp("recipes")) as started:
        started.wait_ready()
        yield started


def make(server: LiveServer, **fields: Any) -> list[dict[str, Any]]:
    (songs,) = server.wait_for([server.submit(**fields)])
    assert all(song["file"] for song in songs), songs
    return songs


def clip_of(server: LiveServer, song: dict[str, Any], folder: Path) -> AudioClip:
    path = folder / "song"
    path.write_bytes(server.download(song))
    return read(path)


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "slow piano in the rain", "audio_format": "wav32"},  # all is automatic, the seed too
        {
            "prompt": "upbeat pop",
            "lyrics": "[Verse]\nla la la",
            "bpm": 97,
            "key_scale": "F# minor",
            "time_signature": "3",
            "vocal_language": "ja",
            "inference_steps": 3,
            "shift": 2.0,
            "infer_method": "sde",
            "seed": 77,
            "instruction": "Compose a song about the sea:",
            "audio_format": "mp3",
        },
        {"audio_code_string": list(range(50)), "timesteps": "0.9,0.5,0.2", "audio_format": "flac"},
    ],
    ids=["automatic", "everything", "codes"],
)
def test_a_recipe_gives_the_same_file(server: LiveServer, fields: dict[str, Any]) -> None:
    (song,) = make(server, **({"audio_duration": 10, "batch_size": 1} | fields))
    (again,) = make(server, **song["recipe"])
    assert server.download(again) == server.download(song)
    assert again["recipe"] == song["recipe"]
    notice = song["warnings"][-1:]  # of nano itself
    assert again["warnings"] == notice


def test_of_a_batch_each_song_has_its_own(server: LiveServer, tmp_path: Path) -> None:
    """Alone, a song is computed in other blocks than in company: it is the same up to rounding."""
    songs = make(
        server,
        prompt="slow piano",
        audio_duration=10,
        batch_size=2,
        inference_steps=2,
        audio_format="wav32",
    )
    assert songs[0]["recipe"]["seed"] != songs[1]["recipe"]["seed"]
    for song in songs:
        (again,) = make(server, **song["recipe"])
        first, second = (clip_of(server, one, tmp_path).samples for one in (song, again))
        np.testing.assert_allclose(first, second, atol=1e-3)


def test_stems_are_files_beside_the_song(server: LiveServer, tmp_path: Path) -> None:
    (song,) = make(
        server,
        prompt="slow piano",
        audio_duration=10,
        batch_size=1,
        inference_steps=2,
        stems=["drums", "bass"],
    )
    assert [stem["track"] for stem in song["stems"]] == ["drums", "bass"]
    clips = [clip_of(server, file, tmp_path) for file in (song, *song["stems"])]
    assert [clip.duration for clip in clips] == [pytest.approx(10.0, abs=0.1)] * 3
    assert not np.allclose(clips[1].samples, clips[2].samples, atol=1e-2)


def test_extras_of_a_real_song(server: LiveServer, tmp_path: Path) -> None:
    (song,) = make(
        server,
        prompt="slow piano",
        lyrics="[Verse]\nla la la",
        audio_duration=10,
        batch_size=1,
        inference_steps=2,
        audio_format="wav32",
        lyric_timestamps=True,
        waveform_peaks=100,
        measure_loudness=True,
    )
    clip = clip_of(server, song, tmp_path)
    assert len(song["waveform_peaks"]) == 100
    assert max(high for _, high in song["waveform_peaks"]) == pytest.approx(clip.samples.max(), abs=1e-3)
    assert -60.0 < song["loudness"]["integrated_lufs"] < 0.0
    assert -1.0 <= song["loudness"]["true_peak_dbtp"] < 3.0  # songs are brought to -1 dBFS
    assert (song["lrc"], song["alignment_score"]) == ("", None)
    assert any("lyric_timestamps: only the published 2 B models" in text for text in song["warnings"])
