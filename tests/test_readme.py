"""The two READMEs say the same, and their example works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ENGLISH, JAPANESE = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.ja.md"))


def tables(text: str) -> list[int]:
    """The rows of each table."""
    return [len(rows.splitlines()) for rows in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)]


def commands(text: str) -> list[str]:
    """What a reader can type, without comments and words of a language."""
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = (re.sub(r"\s*#.*", "", line) for block in blocks for line in block.splitlines())
    return [re.sub(r'"[^"$]*"|[^\x00-\x7f]\S*|URL_OF\S*', "", line) for line in lines if line]


def test_both_have_the_same_sections_tables_and_commands() -> None:
    assert ENGLISH.count("\n## ") == JAPANESE.count("\n## ")
    assert tables(ENGLISH) == tables(JAPANESE)
    assert len(commands(ENGLISH)) == len(commands(JAPANESE))


def test_both_name_the_same_settings_and_paths() -> None:
    named = [set(re.findall(r"ACESTEP_[A-Z_0-9]+|/v1/[a-z_/]+", text)) for text in (ENGLISH, JAPANESE)]
    assert named[0] == named[1]


@pytest.mark.parametrize("text", [ENGLISH, JAPANESE], ids=["en", "ja"])
def test_links_lead_somewhere(text: str) -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    assert [link for link in links if not (ROOT / link).exists()] == []
