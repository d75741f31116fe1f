from pathlib import Path
from typing import get_args

import pytest

from acestep.audio.encode import extension
from acestep.domain.song import AudioFormat
from acestep.rest.spelling import (
    audio_link,
    code_string,
    data_url,
    label_of,
    media_type,
    speaking_name,
    split_link,
)


class TestMediaTypes:
    def test_every_format_has_one(self):
        assert {name: media_type(Path(f"song.{extension(name)}")) for name in get_args(AudioFormat)} == {
            "mp3": "audio/mpeg",
            "wav": "audio/wav",
            "wav32": "audio/wav",
            "flac": "audio/flac",
            "opus": "audio/ogg",
            "aac": "audio/mp4",
        }

    def test_of_another_file(self):
        assert media_type(Path("song.xyz")) == "application/octet-stream"

    def test_in_a_data_link(self, tmp_path: Path):
        path = tmp_path / "song.flac"
        path.write_bytes(b"ABC")
        assert data_url(path) == "data:audio/flac;base64,QUJD"


class TestLinks:
    def test_a_label_and_a_token(self):
        link = audio_link("Calm piano, 90 BPM!", "token.mp3")
        assert link == "/v1/audio?path=calm-piano-90-bpm_token.mp3"
        assert split_link("calm-piano-90-bpm_token.mp3") == ("calm-piano-90-bpm", "token.mp3")

    def test_a_caption_without_latin_letters_leaves_the_token(self):
        assert audio_link("明るい", "token.mp3") == "/v1/audio?path=token.mp3"
        assert split_link("token.mp3") == ("", "token.mp3")

    def test_a_long_caption_is_cut(self):
        assert label_of("word " * 100) == "word-word-word-word-word-word-word-word"

    def test_a_forged_label_is_harmless(self):
        assert split_link('../"\r\nx: y/_token.mp3') == ("xy", "token.mp3")


@pytest.mark.parametrize(("label", "name"), [("pop", "pop-01234567.mp3"), ("", "0123456789.mp3")])
def test_the_name_of_a_download(label: str, name: str):
    assert speaking_name(label, Path("0123456789.mp3")) == name


def test_codes():
    assert code_string([12, 7]) == "<|audio_code_12|><|audio_code_7|>"
    assert code_string([]) == ""
