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


@pytest.mark.parametrize(
    "told",
    [
        *("git clone", "3.11", "5.4 GB", "UV_TORCH_BACKEND", "jq", "--fail-with-body", ".data.warnings"),
        *("ffplay", "Ctrl-C", "close_api_server.sh", ".cache/acestep", "ACESTEP_KEEP_SECONDS"),
    ],
)
def test_a_newcomer_is_told(told: str) -> None:
    """How to get it, what it takes, how to see warnings, to listen and to stop, and where songs lie."""
    assert told in ENGLISH and told in JAPANESE


def test_an_error_is_not_written_into_the_song() -> None:
    saved = [line for text in (ENGLISH, JAPANESE) for line in text.splitlines() if "-o song." in line]
    assert saved and all("--fail " in line or "--fail-with-body" in line for line in saved)


@pytest.mark.parametrize(
    "path",
    [
        *("README.ja.md", "docs/api.ja.md", "docs/configuration.ja.md"),
        *("scripts/api_docs/ja.yaml", "scripts/api_docs/page.ja.md", "scripts/settings_ja.yaml"),
    ],
)
def test_japanese_words_are_spelled_in_one_way(path: str) -> None:
    others = r"(?:サーバ|フォルダ|ユーザ|ブラウザ|ヘッダ|パラメータ|フィルタ)(?!ー)|メモリー|下さい|出来ま"
    foreign = r"頼み方|包み|許可証|リクエストボディー"  # what an engineer would not write
    text = (ROOT / path).read_text(encoding="utf-8")
    assert re.findall(f"{others}|{foreign}", text) == []
