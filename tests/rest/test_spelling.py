import re
from pathlib import Path
from typing import get_args

import pytest

from acestep.audio.encode import extension
from acestep.domain.song import AudioFormat
from acestep.rest.spelling import (
    audio_link,
    code_string,
    data_url,
    disposition,
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

    @pytest.mark.parametrize(
        ("caption", "label"),
        [
            ("明るい", "明るい"),
            ("夜の歌, 90 BPM", "夜の歌-90-bpm"),
            ("Città d'estate", "città-d-estate"),
            ("한국어 발라드", "한국어-발라드"),
            ("हिन्दी गीत", "हिन्दी-गीत"),
            ("か\u3099き", "がき"),
        ],
    )
    def test_a_caption_of_any_script(self, caption: str, label: str):
        link = audio_link(caption, "token.mp3")
        assert re.fullmatch(r"/v1/audio\?path=xn--[a-z0-9-]+_token\.mp3", link)  # whole without encoding
        assert split_link(link.partition("=")[2]) == (label, "token.mp3")

    def test_a_caption_without_words_leaves_the_token(self):
        assert audio_link("♪ !?", "token.mp3") == "/v1/audio?path=token.mp3"
        assert split_link("token.mp3") == ("", "token.mp3")

    def test_a_long_caption_is_cut(self):
        assert label_of("word " * 100) == "word-word-word-word-word-word-word-word"

    def test_a_forged_label_is_harmless(self):
        assert split_link('../"\r\nx: y/_token.mp3') == ("xy", "token.mp3")
        forged = "a\r\n\u202eb/\u3042".encode("punycode").decode()
        assert split_link(f"xn--{forged}_token.mp3") == ("abあ", "token.mp3")
        for broken in ("xn--\u3042", "xn--99999999999", "xn--" + "z" * 5_000):
            assert split_link(f"{broken}_token.mp3")[1] == "token.mp3"


@pytest.mark.parametrize(("label", "name"), [("pop", "pop-01234567.mp3"), ("", "0123456789.mp3")])
def test_the_name_of_a_download(label: str, name: str):
    assert speaking_name(label, Path("0123456789.mp3")) == name


@pytest.mark.parametrize(
    ("label", "header"),
    [
        ("pop", 'inline; filename="pop-01234567.mp3"'),
        ("", 'inline; filename="0123456789.mp3"'),
        (
            "夜の歌",
            'inline; filename="song-01234567.mp3"; '
            "filename*=UTF-8''%E5%A4%9C%E3%81%AE%E6%AD%8C-01234567.mp3",
        ),
        ("città-2", "inline; filename=\"citt-2-01234567.mp3\"; filename*=UTF-8''citt%C3%A0-2-01234567.mp3"),
    ],
)
def test_a_disposition(label: str, header: str):
    assert disposition("inline", label, Path("0123456789.mp3")) == header


def test_codes():
    assert code_string([12, 7]) == "<|audio_code_12|><|audio_code_7|>"
    assert code_string([]) == ""
