from __future__ import annotations

import pytest

from acestep.errors import PlannerError
from acestep.planner import codes
from acestep.planner.language_model import SpecialToken


def test_codes_are_special_tokens() -> None:
    assert codes.tokens([7, 63_999]) == (
        SpecialToken("<|audio_code_7|>"),
        SpecialToken("<|audio_code_63999|>"),
    )
    assert codes.write([7, 3]) == "<|audio_code_7|><|audio_code_3|>"


def test_codes_are_read_back() -> None:
    assert codes.read("<|audio_code_7|><|audio_code_3|>\n") == (7, 3)
    assert codes.read("") == ()


def test_other_text_is_an_error() -> None:
    with pytest.raises(PlannerError, match="something else than audio codes: 'la'"):
        codes.read("<|audio_code_7|>la")
