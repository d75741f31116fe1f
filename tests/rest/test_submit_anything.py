"""Whatever is sent, it is accepted or refused, never broken; and what is accepted fits its model."""

from typing import Any, get_args

from hypothesis import given, settings
from hypothesis import strategies as st

from acestep.domain.models import PlannerInfo, choose_model
from acestep.domain.song import MAX_SEED, AudioFormat
from acestep.errors import InvalidFieldError, ModelUnavailableError, PlannerUnavailableError
from acestep.limits import fit
from acestep.rest.request.schemas import METAS, PARAM_OBJ
from tests.rest.conftest import BASE, NO_PLANNER, PLANNER, TURBO
from tests.rest.request.accepting import accept
from tests.rest.values import FIELDS, aliases, example

NAMES = [name for field in FIELDS for name in (field, *aliases(field))]
SCALARS: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters()),
    st.sampled_from(
        ["", "N/A", "-1", "0", "8.0", "1,2", "C major", "4/4", "wav", "true", "base", "[1]", "{}"]
    ),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
    max_leaves=5,
)
READABLE = st.sampled_from(NAMES).flatmap(
    lambda name: st.tuples(
        st.just(name),
        st.just(next(example(field) for field in FIELDS if name in (field, *aliases(field)))) | SCALARS,
    )
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.dictionaries(st.sampled_from([*NAMES, *METAS, PARAM_OBJ, "unknown"]), VALUES, max_size=4))
def test_anything(body: dict[str, Any]):
    check(body)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(READABLE, max_size=4).map(dict))
def test_mostly_readable_values(body: dict[str, Any]):
    check(body)


def check(body: dict[str, Any]) -> None:
    for planner in (NO_PLANNER, PLANNER):
        check_with(body, planner)


def check_with(body: dict[str, Any], planner: PlannerInfo) -> None:
    try:
        request = accept(body, (TURBO, BASE), planner)
    except (InvalidFieldError, ModelUnavailableError, PlannerUnavailableError) as error:
        assert str(error)
        return
    model, warnings = choose_model((TURBO, BASE), request.model, strict=True)
    assert warnings == ()
    assert fit(request, model) == request
    assert request.batch_size is not None
    assert 1 <= request.batch_size == len(request.seeds) <= model.max_batch
    assert all(0 <= seed <= MAX_SEED for seed in request.seeds)
    assert request.audio_format in get_args(AudioFormat)
    assert planner.is_usable or not (request.planner.thinking or request.planner.sample_query.strip())
    if request.audio_codes:
        assert request.duration is not None
        assert abs(len(request.audio_codes) - 5 * request.duration) <= 1
    for text in (request.caption, request.lyrics, *request.warnings):
        text.encode("utf-8")
