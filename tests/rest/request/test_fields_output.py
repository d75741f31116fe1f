from __future__ import annotations

from typing import Any

import pytest

from acestep.domain.song import OutputOptions
from acestep.errors import InvalidFieldError
from tests.rest.request.test_fields_audio import accepted


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("mp3_bitrate", 100, "128, 160, 192, 224, 256, 320"),
        ("mp3_bitrate", "loud", "128, 160"),
        ("mp3_sample_rate", 22_050, "32000, 44100, 48000"),
    ],
)
def test_what_mp3_cannot_be_is_refused(field: str, value: Any, allowed: str):
    with pytest.raises(InvalidFieldError, match=rf"{field}: .* {allowed}"):
        accepted("text2music", **{field: value})


def test_settings_of_mp3_in_another_format_are_told():
    request = accepted("text2music", audio_format="flac", mp3_bitrate="192k")
    assert (request.output.mp3_bitrate, request.warnings) == (
        None,
        ("mp3_bitrate: the songs are flac; 192 is not used",),
    )


class TestOutput:
    def test_settings(self):
        sent = {"fadeInDuration": 2, "fade_out_duration": "4.5", "normalization_db": -14}
        assert accepted("text2music", **sent).output == OutputOptions(-14.0, 2.0, 4.5)
        assert accepted("text2music").output == OutputOptions(peak_db=-1.0)

    def test_no_normalization(self):
        request = accepted("cover", enable_normalization="false", normalization_db=-3)
        assert request.output.peak_db is None
        assert request.warnings == ("normalization_db: enable_normalization is false; -3 is not used",)

    @pytest.mark.parametrize("sent", [{"normalization_db": -3}, {"enable_normalization": False}])
    def test_a_repaint_is_as_loud_as_its_source(self, sent: dict[str, Any]):
        request = accepted("repaint", **sent)
        assert request.output == OutputOptions()
        (warning,) = request.warnings
        assert warning.startswith(f"{next(iter(sent))}: ")
