"""The scripts in examples/, run as a user runs them."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.live_server import LiveServer
from tests.replays.conftest import SECONDS, assert_is_music

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
# Each script, and the songs that it writes.
WRITES = {
    "release_task.sh": ["song-42.mp3", "song-43.mp3"],
    "release_task_form.sh": ["form.flac"],
    "on_audio.sh": ["source.flac", "cover.flac", "repaint.flac"],
    "chat.sh": ["chat.mp3"],
    "chat_stream.sh": ["stream.flac"],
    "generations.sh": ["generation.flac"],
    "generations_async.sh": ["job-1.mp3", "job-2.mp3"],
    "music_generate.sh": ["music.mp3"],
    "models.sh": [],
}

pytestmark = pytest.mark.skipif(
    None in map(shutil.which, ("bash", "curl", "jq", "base64")), reason="needs bash, curl, jq and base64"
)


def run(server: LiveServer, script: str, folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    env = {"API": server.url, "DURATION": str(SECONDS), "STEPS": "1", "PATH": os.environ["PATH"], **env}
    command = [str(EXAMPLES / script), str(folder)]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)


def test_none_is_forgotten():
    assert {path.name for path in EXAMPLES.glob("*.sh")} == {*WRITES, "common.sh"}
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert all(f"({name})" in readme for name in WRITES)


@pytest.mark.parametrize(("script", "songs"), WRITES.items())
def test_script(server: LiveServer, tmp_path: Path, script: str, songs: list[str]):
    done = run(server, script, tmp_path / "songs")
    assert (done.returncode, done.stderr) == (0, "")
    assert [line for line in done.stdout.splitlines() if line.startswith("wrote ")] == [
        f"wrote {tmp_path}/songs/{song}" for song in songs
    ]
    for song in songs:
        assert_is_music((tmp_path / "songs" / song).read_bytes(), song.rpartition(".")[2])
    assert songs or done.stdout.splitlines()[1:] == ["acestep/acestep-nano"] * 2


def readme_example(name: str) -> str:
    """The commands of a README that make a song."""
    text = (EXAMPLES.parent / name).read_text(encoding="utf-8")
    return next(block.partition("```")[0] for block in text.split("```bash\n") if "-o song.mp3" in block)


@pytest.mark.parametrize("name", ["README.md", "README.ja.md"])
def test_the_example_of_the_readme(server: LiveServer, tmp_path: Path, name: str):
    quick = readme_example(name).replace("http://127.0.0.1:8001", server.url)
    commands = quick.replace('"audio_duration": 30', f'"audio_duration": {SECONDS}, "inference_steps": 1')
    done = subprocess.run(
        ["bash", "-c", commands], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "nano" in done.stdout  # its warnings are shown
    assert_is_music((tmp_path / "song.mp3").read_bytes(), "mp3")


@pytest.mark.parametrize("name", ["README.md", "README.ja.md"])
def test_the_example_of_the_readme_writes_no_error_into_a_song(server: LiveServer, tmp_path: Path, name: str):
    commands = readme_example(name).replace("http://127.0.0.1:8001", server.url)
    done = subprocess.run(
        ["bash", "-c", commands.replace('"bpm": 120', '"bpm": 9999')],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "bpm: 9999 cannot be used" in done.stdout
    assert not (tmp_path / "song.mp3").exists()


@pytest.mark.parametrize("script", [script for script, songs in WRITES.items() if songs])
def test_what_the_server_refuses_is_shown(server: LiveServer, tmp_path: Path, script: str):
    done = run(server, script, tmp_path, DURATION="5")
    assert done.returncode != 0
    assert "audio_duration: 5" in done.stdout + done.stderr
    assert "wrote" not in done.stdout
