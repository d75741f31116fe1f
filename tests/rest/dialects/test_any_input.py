"""Whatever is sent, a dialect translates it or refuses it with a sentence; it never breaks."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from acestep.errors import InvalidFieldError, ModelUnavailableError, PlannerUnavailableError
from acestep.rest.dialects.chat_fields import ChatRequest
from acestep.rest.dialects.chat_input import decode, read_chat, song_of
from acestep.rest.dialects.generations import AudioGeneration, read_generation
from tests.rest.conftest import BASE, NO_PLANNER, PLANNER, TURBO
from tests.rest.request.accepting import accept
from tests.rest.values import FIELDS

REFUSALS = (InvalidFieldError, ModelUnavailableError, PlannerUnavailableError)
SCALARS: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=20)
)
ANYTHING = st.recursive(
    SCALARS | st.sampled_from(["<prompt>", "[Verse]\nla", "data:audio/wav;base64,QUJD", "user", "text", "1"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "type", "text", "format", "data", "instrumental", *FIELDS]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)
PART = st.fixed_dictionaries({"type": st.just("text"), "text": st.text(max_size=50)}) | (
    st.fixed_dictionaries(
        {"type": st.just("input_audio"), "input_audio": st.fixed_dictionaries({"data": st.text(max_size=9)})}
    )
)
CONTENT = st.text(max_size=50) | st.lists(PART, max_size=3) | ANYTHING
MESSAGES = st.lists(st.fixed_dictionaries({"role": st.just("user"), "content": CONTENT}), max_size=2)
NAMES = [*ChatRequest.model_fields, *AudioGeneration.model_fields, "async", *FIELDS]
BODIES = st.dictionaries(st.sampled_from(NAMES), ANYTHING, max_size=4)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(BODIES, MESSAGES | ANYTHING, st.booleans())
def test_chats(body: dict[str, Any], messages: Any, has_planner: bool):
    planner = PLANNER if has_planner else NO_PLANNER
    try:
        song = song_of(read_chat({**body, "messages": messages}), planner)
        decode(song.audio)
        request = accept(song.fields, (TURBO, BASE), planner)
    except REFUSALS as refusal:
        assert str(refusal)
    else:
        assert request.batch_size == len(request.seeds)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(BODIES, st.booleans())
def test_generations(body: dict[str, Any], prefers_async: bool):
    try:
        fields, run_async, _ = read_generation(body, prefers_async)
        request = accept(fields, (TURBO, BASE), NO_PLANNER)
    except REFUSALS as refusal:
        assert str(refusal)
    else:
        assert run_async or request.batch_size == 1
