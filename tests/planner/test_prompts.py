from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jinja2
import pytest

from acestep.domain.draft import Metadata
from acestep.domain.song import INSTRUMENTAL
from acestep.planner import codes, metadata, prompts
from acestep.planner.language_model import Message, SpecialToken, spelled

_BESIDE_CHECKOUT = Path(__file__).parents[3] / "shared" / "parity"
FIXTURE = Path(os.environ.get("ACESTEP_PARITY_DIR") or _BESIDE_CHECKOUT) / "lm_prompts.json"


def cases() -> list[Any]:
    """What the original wrote, one parameter a prompt; a single skipped one where the fixture is missing."""
    if not FIXTURE.is_file():
        reason = f"no parity fixture at {FIXTURE}; set ACESTEP_PARITY_DIR to its folder"
        return [pytest.param({}, "", marks=pytest.mark.skip(reason=reason))]
    fixture = json.loads(FIXTURE.read_text(encoding="utf-8"))
    return [
        pytest.param(case, fixture["chat_template"], id=f"{number}-{case['kind']}")
        for number, case in enumerate(fixture["prompts"])
    ]


def ours(case: dict[str, Any], template: str) -> str:
    """The same prompt, made by this package."""
    if case["kind"] == "cot":
        return metadata.write(_facts(case["metadata"]))
    messages, turn = conversation(case)
    rendered: str = jinja2.Template(template, keep_trailing_newline=True).render(
        messages=[{"role": each.role, "content": spelled(each.content)} for each in messages],
        add_generation_prompt=True,
    )
    return rendered + spelled(turn)


def conversation(case: dict[str, Any]) -> tuple[tuple[Message, ...], tuple[str | SpecialToken, ...]]:
    """Its messages, and the beginning of the assistant's turn."""
    kind = case["kind"]
    turn: tuple[str | SpecialToken, ...] = ()
    if kind in ("plan", "codes"):
        messages = prompts.plan(case["caption"], case["lyrics"])
    elif kind == "plan_unconditional":
        messages = prompts.plan_null(case["lyrics"], case["negative_prompt"])
    elif kind == "codes_unconditional":
        messages = prompts.codes_null(case["caption"], case["lyrics"], case["negative_prompt"])
    elif kind == "sample":
        messages = prompts.sample(case["query"], case["instrumental"])
    elif kind == "format":
        messages = prompts.format(case["caption"], case["lyrics"])
    else:
        assert kind == "understand"
        messages = prompts.understand(codes.read(case["codes"]))
    if kind == "codes":
        turn = prompts.open_turn(metadata.read(case["cot"]))
    elif kind == "codes_unconditional":
        turn = prompts.open_turn(Metadata())
    return messages, turn[:-1]  # without the empty line that codes follow


def _facts(named: dict[str, Any]) -> Metadata:
    return Metadata(
        bpm=named.get("bpm"),
        caption=named.get("caption"),
        duration=named.get("duration"),
        key_scale=named.get("keyscale"),
        language=named.get("language"),
        time_signature=named.get("timesignature"),
    )


@pytest.mark.parametrize(("case", "template"), cases())
def test_prompts_are_the_originals(case: dict[str, Any], template: str) -> None:
    assert ours(case, template) == case["text"]


def test_codes_follow_the_block_in_the_open_turn_or_after_it() -> None:
    assert spelled(prompts.open_turn(Metadata(bpm=90))) == "<think>\nbpm: 90\n</think>\n\n"
    closed = prompts.closed_turn(Metadata(bpm=90), "<|im_end|>")
    assert spelled(closed) == "<think>\nbpm: 90\n</think>\n\n<|im_end|>\n"


def test_an_empty_text_has_a_placeholder() -> None:
    assert spelled(prompts.sample(" ", True)[1].content).startswith("NO USER INPUT\n")
    assert prompts.format("", "la")[1].content == "# Caption\nNO USER INPUT\n\n# Lyric\nla"
    for user in (prompts.format("pop", " ")[1], prompts.plan("pop", "")[1], prompts.plan_null("", "")[1]):
        assert spelled(user.content).rstrip("\n").endswith(f"# Lyric\n{INSTRUMENTAL}")
