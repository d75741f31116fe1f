"""The pages about the API say what the program does, in both languages."""

from __future__ import annotations

import re
from typing import Any, get_args

import pytest

from acestep.domain.song import TRACKS
from acestep.rest.openapi import ERRORS
from acestep.rest.request.schemas import GenerateTask
from acestep.rest.request.wire_types import about_of, notes_of
from scripts.api_docs.pages import PAGES, Language, groups, operations, render, words_of

LANGUAGES: tuple[Language, ...] = get_args(Language)
JAPANESE = words_of("ja")
FIELDS = tuple(GenerateTask.model_fields)


def rows(page: str) -> dict[str, list[str]]:
    """The cells of each row of the tables of fields, by the field's name."""
    table = [line.strip("| ") for line in page.splitlines() if line.startswith("| `")]
    cells = [re.split(r" (?<!\\)\| ", line) for line in table]
    return {row[0].strip("`"): row for row in cells if len(row) == 8}


def numbers(text: str) -> set[str]:
    return set(re.findall(r"\d+(?:\.\d+)?", text.replace(",", "")))


@pytest.fixture(scope="module")
def pages() -> dict[Language, str]:
    return {language: render(language) for language in LANGUAGES}


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_pages_are_current(pages: dict[Language, str], language: Language):
    assert PAGES[language].read_text(encoding="utf-8") == pages[language], "run `just docs`"


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_field_has_a_row_with_all_its_names(pages: dict[Language, str], language: Language):
    found = rows(pages[language])
    assert set(found) == set(FIELDS)
    for name in FIELDS:
        for alias in notes_of(GenerateTask.model_fields[name])["x-aliases"]:
            assert f"`{alias}`" in found[name][1]
        assert all(found[name][:7])
    assert "{{" not in pages[language]


def test_fields_have_japanese_texts_and_texts_have_fields():
    assert set(JAPANESE["fields"]) == set(FIELDS)
    for language in LANGUAGES:
        assert set(words_of(language)["groups"]) == {group.__name__ for group in groups()}
    assert set(JAPANESE["endpoints"]) == {route for route, _ in operations()}
    assert set(JAPANESE["errors"]) == set(ERRORS)
    shared = set(words_of("en"))
    assert shared == set(JAPANESE) - {"fields", "endpoints", "errors"}


@pytest.mark.parametrize("name", FIELDS)
def test_a_japanese_text_says_what_the_english_one_does(name: str):
    texts: dict[str, Any] = JAPANESE["fields"][name]
    info = GenerateTask.model_fields[name]
    notes = notes_of(info)
    assert re.search(r"[ぁ-ん]", texts["text"])
    assert numbers(about_of(info)) <= numbers(texts["text"])
    english = {
        "text",
        *(["range"] if "x-allowed" in notes else []),
        *(["instead"] if notes["x-instead"] else []),
    }
    assert set(texts) == english
    if "range" in texts:
        assert numbers(notes["x-allowed"]) <= numbers(texts["range"])
        assert [track for track in TRACKS if track in notes["x-allowed"]] == [
            track for track in TRACKS if track in texts["range"]
        ]
