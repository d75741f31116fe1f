from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import llguidance
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from acestep.domain.draft import Metadata
from acestep.domain.song import INSTRUMENTAL, LANGUAGES, TIME_SIGNATURES
from acestep.planner import codes, metadata
from acestep.planner.grammar import BlockRules, BoundedGrammar, codes_grammar, draft_grammar, metadata_grammar
from acestep.planner.language_model import Generation, TokenSampling
from tests.planner.fakes import CODES, END_OF_TURN, WalkingModel, guide, tokenizer, write_now
from tests.planner.test_metadata import CAPTIONS

KEY_SCALE = re.compile(r"[A-G](#|b|♯|♭)? (major|minor)")
HASTE = st.sampled_from([None, 0.02, 0.2, 0.8])
SEEDS = st.integers(0, 2**32 - 1)
FIXED = st.builds(
    Metadata,
    bpm=st.none() | st.integers(30, 300),
    caption=st.none() | CAPTIONS.filter(lambda text: len(text) < 300),
    duration=st.none() | st.integers(10, 600),
    key_scale=st.sampled_from([None, "C major", "F# minor", "Bb major", "E♭ minor"]),
    language=st.sampled_from([None, *LANGUAGES]),
    time_signature=st.sampled_from([None, *TIME_SIGNATURES]),
)
RULES = st.builds(
    BlockRules,
    fixed=FIXED,
    longest=st.floats(11, 600),
    caption=st.booleans(),
    language=st.booleans(),
)


def written(form: BoundedGrammar, haste: float | None, seed: int) -> str:
    return write_now(
        WalkingModel(haste), Generation((), form.grammar, TokenSampling(), seed, form.max_tokens)
    )


def admits(form: BoundedGrammar, text: str) -> bool:
    """Whether the grammar allows `text`, up to its end."""
    matcher = llguidance.LLMatcher(guide(), form.grammar, log_level=0)
    tokens = tokenizer().encode(text, add_special_tokens=False).ids
    return bool(matcher.consume_tokens(tokens) and matcher.is_stopped()) and len(tokens) <= form.max_tokens


def check(found: Metadata, rules: BlockRules) -> None:
    """Fixed fields are kept, and free ones are within bounds."""
    asked = metadata.facts(rules.fixed)
    facts = metadata.facts(found)
    assert {key: facts[key] for key in asked} == asked
    assert found.bpm is not None and 30 <= found.bpm <= 300
    assert found.duration is not None
    assert "duration" in asked or 10 <= found.duration <= rules.longest
    assert found.key_scale is not None and KEY_SCALE.fullmatch(found.key_scale)
    assert found.time_signature in TIME_SIGNATURES
    assert found.language in LANGUAGES if rules.language or "language" in asked else found.language is None
    assert bool(found.caption) == rules.caption or "caption" in asked


@settings(max_examples=80, deadline=None, derandomize=True)
@given(RULES, HASTE, SEEDS)
@example(BlockRules(), None, 0)
def test_allowed_text_reads_as_metadata_within_bounds(
    rules: BlockRules, haste: float | None, seed: int
) -> None:
    check(metadata.read(written(metadata_grammar(rules), haste, seed)), rules)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(RULES, st.none() | st.just(INSTRUMENTAL), HASTE, SEEDS)
@example(BlockRules(), None, None, 0)
def test_allowed_text_reads_as_a_draft(
    rules: BlockRules, lyrics: str | None, haste: float | None, seed: int
) -> None:
    draft = metadata.read_draft(written(draft_grammar(rules, END_OF_TURN, lyrics), haste, seed))
    check(draft.metadata, rules)
    assert draft.lyrics == lyrics if lyrics else draft.lyrics


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(1, 300), SEEDS)
def test_codes_have_the_given_count_and_are_in_the_codebook(count: int, seed: int) -> None:
    form = codes_grammar(count, WalkingModel().vocabulary)
    found = codes.read(written(form, 0.5, seed))
    assert len(found) == count
    assert max(found) < CODES
    assert form.max_tokens == count + 1


@settings(max_examples=40, deadline=None, derandomize=True)
@given(CAPTIONS.filter(lambda text: len(text) < 80))
def test_a_fixed_caption_is_written_as_yaml_writes_it(caption: str) -> None:
    song = Metadata(bpm=90, caption=caption, duration=30, key_scale="C major", time_signature="4")
    rules = BlockRules(song, language=False)
    assert written(metadata_grammar(rules), 0.1, 0) == metadata.write(song)


@pytest.mark.parametrize(
    "caption",
    [
        "pop with a caption that goes on and on about bright synths, driving drums and wide, warm pads",
        "short: with colon, it's quoted",
        "# hash first",
        'a "quoted" title\nand a line break',
        '"Quoted first": a song',
        "明るい曲、" * 15,
        "word " * 100 + "end",
    ],
)
@pytest.mark.parametrize("language", ["en", "no"])
def test_it_allows_blocks_of_the_training_data(caption: str, language: str) -> None:
    song = Metadata(120, caption, 180, "C# minor", language, "4")
    block = metadata.write(song)
    assert admits(metadata_grammar(BlockRules()), block)
    for header in ("", f"# Languages\n{language}\n\n"):
        text = f"{block}\n\n{header}# Lyric\n[Verse 1]\nI <3 you: la\n\n[Chorus]\n- 'la'{END_OF_TURN}"
        assert admits(draft_grammar(BlockRules(), END_OF_TURN), text)


@pytest.mark.parametrize(
    "change",
    [
        {"bpm": 29},
        {"bpm": 301},
        {"duration": 9},
        {"duration": 121},
        {"key_scale": "H major"},
        {"language": "xx"},
        {"time_signature": "5"},
        {"caption": ""},
        {"caption": None},
    ],
)
def test_it_allows_nothing_out_of_bounds(change: dict[str, Any]) -> None:
    song = Metadata(120, "a song", 120, "C# minor", "en", "4")
    form = metadata_grammar(BlockRules(longest=120.5))
    assert admits(form, metadata.write(song))
    assert not admits(form, metadata.write(replace(song, **change)))


def test_a_limit_below_the_shortest_song_gives_a_grammar() -> None:
    found = metadata.read(written(metadata_grammar(BlockRules(longest=8.5)), 0.5, 0))
    assert found.duration == 8
