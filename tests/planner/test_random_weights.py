"""A language model of random weights answers every request in form.

Eight requests by default; `PLANNER_REQUESTS=500` asks for as many.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from acestep.domain.draft import Metadata
from acestep.domain.song import LANGUAGES, TIME_SIGNATURES, SongRequest
from acestep.planner.language_model import LanguageModel
from acestep.planner.loop import GenerationLoop
from acestep.planner.planner import Planner
from tests.planner.loaders import Load
from tests.planner.test_planner import REQUESTS
from tests.planner.toy import Toy, write_toy

TOGETHER = 4
CODES = 100
LONGEST = 240.0
EXAMPLES = int(os.environ.get("PLANNER_REQUESTS", "8")) // TOGETHER


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, load: Load) -> LanguageModel:
    toy = Toy(codes=CODES, positions=4096, head_dim=32)
    return load(write_toy(tmp_path_factory.mktemp("lm") / "toy", toy), length=4096)


@pytest.fixture(scope="module")
def loop(model: LanguageModel) -> Iterator[GenerationLoop]:
    made = GenerationLoop(model)
    yield made
    made.close()
    made.free_model()


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(requests=st.lists(REQUESTS, min_size=TOGETHER, max_size=TOGETHER))
def test_every_answer_is_in_form(
    model: LanguageModel, loop: GenerationLoop, requests: list[SongRequest]
) -> None:
    planner = Planner(model, loop.generate)

    async def plan(request: SongRequest) -> tuple[Metadata, tuple[int, ...]]:
        decided = await planner.decide(request, LONGEST)
        seconds = request.duration or min(30.0, float(decided.duration or 30))
        return decided, await planner.sketch(request, decided, seconds, request.seeds[1])

    async def plan_all() -> list[tuple[Metadata, tuple[int, ...]]]:
        return await asyncio.gather(*map(plan, requests))

    for request, (decided, codes) in zip(requests, asyncio.run(plan_all()), strict=True):
        check(request, decided)
        seconds = request.duration or min(30.0, float(decided.duration or 30))
        assert len(codes) == int(5 * seconds)
        assert all(0 <= code < CODES for code in codes)


def check(request: SongRequest, decided: Metadata) -> None:
    assert decided.bpm is not None
    assert 30 <= decided.bpm <= 300
    assert decided.duration is not None
    assert 10 <= decided.duration <= LONGEST
    assert decided.key_scale
    assert decided.key_scale.endswith((" major", " minor"))
    assert decided.time_signature in TIME_SIGNATURES
    assert decided.language in LANGUAGES
    for field in ("bpm", "key_scale", "time_signature"):
        if getattr(request, field) is not None:
            assert getattr(decided, field) == getattr(request, field)
    if request.duration is not None:
        assert decided.duration == int(request.duration)
    if request.language_fixed:
        assert decided.language == request.language
