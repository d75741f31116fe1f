from __future__ import annotations

import pytest

from acestep.planner.sentence import is_instrumental, named_language


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("an instrumental lullaby", True),
        ("a waltz without vocals", True),
        ("pure music for rain", True),
        ("a slow piano solo", True),
        ("a rock song with a guitar solo", False),
        ("a song about instruments", False),
        ("", False),
    ],
)
def test_a_sentence_says_instrumental(sentence: str, expected: bool) -> None:
    assert is_instrumental(sentence) is expected


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("a French chanson", "fr"),
        ("a Cantonese ballad, then English rap", "yue"),
        ("a Latin dance", None),
        ("frenchy", None),
    ],
)
def test_a_sentence_names_a_language(sentence: str, expected: str | None) -> None:
    assert named_language(sentence) == expected
