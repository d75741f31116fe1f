"""Models and planners loaded while the server runs: beside which they fit, and with which limits."""

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from acestep.catalog.checkpoints import Choice, choose
from acestep.catalog.planner_choice import SMALLEST, PlannerChoice
from acestep.device.probes import Probes
from acestep.domain.models import ModelInfo
from acestep.errors import CheckpointError, InvalidFieldError
from acestep.memory import admission
from acestep.memory.admission import MemoryLedger, with_planner
from acestep.memory.configs import PLANNERS
from acestep.memory.decide import Decision, decide_for_server
from acestep.memory.plan import GB, MemoryPlan
from acestep.memory.sizes import DitSize, QwenSize
from acestep.settings.settings import Settings

NONE = PlannerChoice()
MIDDLE = PlannerChoice("acestep-5Hz-lm-1.7B")
PROBES = Probes(gpu_free=lambda number: (10 + number) * GB, main_memory=lambda: 32 * GB)


@pytest.fixture
def base(tmp_path: Path) -> Choice:
    """One of the same size that needs more for a song, since guidance doubles its rows."""
    return choose("acestep-v15-base", tmp_path, lambda: True, lambda: True)


@pytest.fixture
def xl(tmp_path: Path) -> Choice:
    """One that is larger."""
    return choose("acestep-v15-xl-turbo", tmp_path, lambda: True, lambda: True)


def info_of(choice: Choice) -> ModelInfo:
    return ModelInfo(choice.name, choice.is_turbo, steps=8, guidance_scale=1, shift=3, max_steps=8)


def opened(folder: Path, choices: list[Choice], planner: PlannerChoice = NONE, **given: Any) -> MemoryLedger:
    """The account of a server that was started with these models."""
    settings = Settings.load(folder, **({"device": "cuda", "init_llm": bool(planner.name)} | given))
    ledger = MemoryLedger(decide_for_server(settings, choices, planner, PROBES))
    for choice in choices:
        ledger.know(choice)
    return ledger


def turbo_weights(ledger: MemoryLedger) -> int:
    """Bytes of one DiT of the default model."""
    assert ledger.decision is not None
    (size,) = (part.size for part in ledger.decision.plan.parts if part.name == "DiT")
    return size // len(ledger.decision.sizes.dits)


def settled(plan: MemoryPlan) -> tuple[object, ...]:
    """What cannot change while models are in memory."""
    models = ("text encoder", "condition encoder", "DiT", "VAE")
    return (*map(plan.placement, models), plan.tile, plan.max_batch, plan.max_duration)


def usefulness(info: ModelInfo) -> tuple[float, int]:
    return info.max_duration, info.max_batch


def at_budget(ledger: MemoryLedger, budget: float) -> MemoryLedger:
    """The same with another budget, and what was decided as it is."""
    decision = ledger.decision
    assert decision is not None
    constraints = replace(decision.constraints, budget=replace(decision.budget, size=int(budget * GB)))
    ledger.decision = replace(decision, constraints=constraints)
    return ledger


class TestAnotherPlanner:
    """While the server runs: models stay where they are, so the planner must fit beside them."""

    def at(self, tmp_path: Path, turbo: Choice, budget: float) -> tuple[Decision, Settings]:
        settings = Settings.load(tmp_path, vram_budget=budget, device="cuda", init_llm=False)
        decision = decide_for_server(settings, [turbo], NONE, PROBES)
        assert decision is not None and decision.plan.planner == ""
        return decision, settings

    def test_one_that_fits_changes_nothing_else(self, tmp_path: Path, turbo: Choice) -> None:
        before, settings = self.at(tmp_path, turbo, 24)
        after = with_planner(before, MIDDLE, settings)
        assert (after.plan.planner, after.plan.placement("planner")) == (MIDDLE.name, "resident")
        assert settled(after.plan) == settled(before.plan)
        assert after.plan.peak <= 24 * GB
        assert after.adapters == before.adapters
        smaller = with_planner(after, PlannerChoice("acestep-5Hz-lm-0.6B"), settings)
        assert smaller.plan.peak < after.plan.peak

    def test_with_one_the_plan_no_longer_says_that_it_has_none(self, tmp_path: Path, turbo: Choice) -> None:
        settings = Settings.load(tmp_path, vram_budget=11.5, device="cuda")
        before = decide_for_server(settings, [turbo], MIDDLE, PROBES)
        assert before is not None and before.planner_problem in before.notes
        after = with_planner(before, PlannerChoice(SMALLEST), settings)
        assert after.plan.planner == SMALLEST
        assert (after.planner_problem, after.notes) == ("", ())

    def test_it_is_offloaded_where_there_is_no_room_for_both(self, tmp_path: Path, turbo: Choice) -> None:
        before, settings = self.at(tmp_path, turbo, 14)
        after = with_planner(before, MIDDLE, settings)
        assert after.plan.placement("planner") == "offloaded"
        assert after.plan.peak <= 14 * GB

    def test_one_without_room_is_refused_with_the_number(self, tmp_path: Path, turbo: Choice) -> None:
        before, settings = self.at(tmp_path, turbo, 8)
        with pytest.raises(InvalidFieldError, match=r"^lm_model_path: .*-4B.* (\S+) GB are needed") as caught:
            with_planner(before, PlannerChoice("acestep-5Hz-lm-4B"), settings)
        needed = float(caught.value.allowed.partition("this one ")[2].split()[0])
        assert needed > 8
        roomy = replace(before.constraints, budget=replace(before.budget, size=int((needed + 0.01) * GB)))
        after = with_planner(replace(before, constraints=roomy), PlannerChoice("acestep-5Hz-lm-4B"), settings)
        assert after.plan.peak == pytest.approx(needed * GB, abs=0.01 * GB)

    def test_one_on_another_device_takes_no_room(self, tmp_path: Path, turbo: Choice) -> None:
        settings = Settings.load(tmp_path, device="cuda", lm_device="cpu", init_llm=False)
        before = decide_for_server(settings, [turbo], NONE, PROBES)
        assert before is not None
        assert with_planner(before, MIDDLE, settings) == before

    def test_a_cpu_refuses_none(self, tmp_path: Path, turbo: Choice) -> None:
        settings = Settings.load(tmp_path, device="cpu", init_llm=False)
        before = decide_for_server(settings, [turbo], NONE, PROBES)
        assert before is not None
        assert with_planner(before, MIDDLE, settings).plan.planner == MIDDLE.name

    def test_a_folder_that_does_not_say(self, tmp_path: Path, turbo: Choice) -> None:
        before, settings = self.at(tmp_path, turbo, 24)
        (tmp_path / "config.json").write_text("{}")
        with pytest.raises(CheckpointError, match="does not say"):
            with_planner(before, PlannerChoice("lm", tmp_path), settings)

    def test_it_has_to_fit_beside_models_that_came_meanwhile(
        self, tmp_path: Path, turbo: Choice, xl: Choice
    ) -> None:
        settings = Settings.load(tmp_path, vram_budget=24, device="cuda")
        ledger = opened(tmp_path, [turbo], vram_budget=24)
        ledger.know(xl)
        there = [ledger.limited(info_of(turbo), [])]
        both = [*there, ledger.limited(info_of(xl), there)]
        alone, beside = (ledger.with_planner(MIDDLE, settings, infos) for infos in (there, both))
        assert alone is not None and alone.plan.placement("planner") == "resident"
        assert beside is not None and beside.plan.placement("planner") == "offloaded"
        assert settled(alone.plan) == settled(beside.plan), "models are not told that anything changed"
        assert max(alone.plan.peak, beside.plan.peak) <= 24 * GB
        with pytest.raises(
            InvalidFieldError, match=r"^lm_model_path: .* GB are needed, and there are 24\.00"
        ):
            ledger.with_planner(PlannerChoice(PLANNERS[2].name), settings, both)

    def test_room_stays_for_models_that_requests_name(self, tmp_path: Path, turbo: Choice) -> None:
        given: dict[str, Any] = {"on_demand_model_load": True, "models_in_memory": 2, "vram_budget": 20}
        settings = Settings.load(tmp_path, device="cuda", **given)
        ledger = opened(tmp_path, [turbo], **given)
        alone = [ledger.limited(info_of(turbo), [])]
        for there in ([], alone, alone * 2):
            decision = ledger.with_planner(MIDDLE, settings, there)
            assert decision is not None
            sizes = {part.name: part.size for part in decision.plan.parts}
            assert sizes["DiT"] == 2 * turbo_weights(ledger)

    @pytest.mark.parametrize(
        ("budget", "quantization", "name"),
        [(26, "none", 2), (20, "none", 1), (17, "none", 0), (18, "int8", 1), (8, "none", 0)],
    )
    def test_the_largest_with_room_comes_by_itself(
        self, tmp_path: Path, turbo: Choice, budget: float, quantization: str, name: int
    ) -> None:
        ledger = opened(tmp_path, [turbo], vram_budget=budget, quantization=quantization)
        settings = Settings.load(tmp_path, vram_budget=budget, device="cuda", quantization=quantization)
        there = [ledger.limited(info_of(turbo), [])]
        assert ledger.default_planner(settings, SMALLEST, there) == PLANNERS[name].name

    def test_the_documented_one_comes_where_it_fits_in_any_way(self, tmp_path: Path, turbo: Choice) -> None:
        ledger = opened(tmp_path, [turbo], vram_budget=14)
        settings = Settings.load(tmp_path, vram_budget=14, device="cuda")
        assert ledger.default_planner(settings, MIDDLE.name, ()) == MIDDLE.name
        decision = ledger.with_planner(MIDDLE, settings, ())
        assert decision is not None and decision.plan.placement("planner") == "offloaded"

    def test_where_nobody_knows_no_plan_says(self, tmp_path: Path, turbo: Choice) -> None:
        elsewhere: list[dict[str, Any]] = [{"device": "cpu"}, {"device": "mps"}, {"lm_device": "cpu"}]
        for given in elsewhere:
            ledger = opened(tmp_path, [turbo], **given)
            settings = Settings.load(tmp_path, **({"device": "cuda"} | given))
            assert ledger.default_planner(settings, SMALLEST, ()) is None
        assert MemoryLedger(None).default_planner(settings, SMALLEST, ()) is None


class TestOtherModels:
    """While the server runs: another model has to have room beside those that are there."""

    @pytest.mark.parametrize(
        ("budget", "moved", "fits"), [(24, False, True), (10, False, False), (10, True, True)]
    )
    def test_two_fit_where_there_is_room_or_both_are_moved(
        self, tmp_path: Path, turbo: Choice, base: Choice, budget: float, moved: bool, fits: bool
    ) -> None:
        given: dict[str, Any] = {
            "offload_to_cpu": moved or None,
            "offload_dit_to_cpu": moved,
            "vram_budget": budget,
        }
        ledger = opened(tmp_path, [turbo], **given)
        ledger.know(base)
        there = ledger.limited(info_of(turbo), [])
        assert ledger.why_not_together([there]) == ""
        found = ledger.why_not_together([there, ledger.limited(info_of(base), [there])])
        said = r"acestep-v15-turbo, acestep-v15-base: at least \S+ GB are needed, and there are 10\.00 GB .*"
        assert re.fullmatch("" if fits else said, found)

    def test_a_model_that_needs_more_has_smaller_limits(
        self, tmp_path: Path, turbo: Choice, base: Choice
    ) -> None:
        ledger = opened(tmp_path, [turbo], vram_budget=12)
        ledger.know(base)
        assert ledger.decision is not None
        alike = ledger.limited(info_of(turbo), [])
        assert alike == ledger.decision.limited(info_of(turbo))
        smaller = ledger.limited(info_of(base), [])
        assert (smaller.max_batch, smaller.max_duration) < (alike.max_batch, 600.1)
        assert smaller.max_duration >= 240 and smaller.max_batch >= 2

    def test_limits_hold_beside_those_that_are_there(
        self, tmp_path: Path, turbo: Choice, base: Choice
    ) -> None:
        for budget, smaller in ((16, True), (17, True), (24, False)):
            ledger = opened(tmp_path, [turbo], vram_budget=budget)
            ledger.know(base)
            there = ledger.limited(info_of(turbo), [])
            alone, beside = (ledger.limited(info_of(base), others) for others in ([], [there]))
            assert ledger.why_not_together([there, beside]) == ""
            assert (usefulness(beside) < usefulness(alone)) == smaller
            if smaller:
                assert ledger.why_not_together([there, alone]) != "", "alone it may do more than beside"
            both = opened(tmp_path, [turbo, base], vram_budget=budget).decision
            assert both is not None and {part.placement for part in both.plan.parts} == {"resident"}
            assert usefulness(beside) >= (both.plan.max_duration, both.plan.max_batch)

    def test_limits_of_those_that_are_there_stay_valid(
        self, tmp_path: Path, turbo: Choice, base: Choice
    ) -> None:
        """A budget by a hair too small refuses the model, with the number that is enough."""
        ledger = opened(tmp_path, [turbo], vram_budget=12)
        ledger.know(base)
        there = ledger.limited(info_of(turbo), [])
        assert (there.max_batch, there.max_duration) == (8, 600)
        said = ledger.why_not_together([there, ledger.limited(info_of(base), [there])])
        enough = float(said.partition("at least ")[2].split()[0])
        assert enough == pytest.approx(15.93, abs=0.1)
        fits = []
        for budget in (enough - 0.01, enough + 0.01):
            ledger = at_budget(ledger, budget)
            added = ledger.limited(info_of(base), [there])
            fits.append(ledger.why_not_together([there, added]) == "")
        assert fits == [False, True]
        smaller = replace(there, max_batch=1, max_duration=60)
        ledger = at_budget(ledger, enough - 0.01)
        assert ledger.why_not_together([smaller, ledger.limited(info_of(base), [smaller])]) == ""

    def test_a_planner_counts_beside_whoever_is_at_work(
        self, tmp_path: Path, turbo: Choice, base: Choice
    ) -> None:
        settings = Settings.load(tmp_path, vram_budget=24, device="cuda")
        ledger = opened(tmp_path, [turbo], vram_budget=24)
        ledger.know(base)
        there = ledger.limited(info_of(turbo), [])
        before = ledger.limited(info_of(base), [there])
        assert ledger.why_not_together([there, before]) == ""
        ledger.decision = ledger.with_planner(PlannerChoice(PLANNERS[2].name), settings, [there])
        after = ledger.limited(info_of(base), [there])
        assert ledger.why_not_together([there, after]) != ""

    def test_what_a_request_names_has_the_place_that_was_kept(
        self, tmp_path: Path, turbo: Choice, base: Choice, xl: Choice
    ) -> None:
        given: dict[str, Any] = {"on_demand_model_load": True, "models_in_memory": 2, "vram_budget": 17}
        ledger = opened(tmp_path, [turbo], **given)
        for choice in (base, xl):
            ledger.know(choice)
        there = ledger.limited(info_of(turbo))
        assert there == ledger.decision.limited(info_of(turbo)) if ledger.decision else False
        for choice in (turbo, base, xl):
            guest = ledger.limited(info_of(choice))
            assert ledger.why_not_together([guest]) == "" and guest.max_duration >= 240
        assert ledger.why_not_together([there, ledger.limited(info_of(base))]) == ""
        before = usefulness(ledger.limited(info_of(xl)))
        after = usefulness(at_budget(ledger, 40).limited(info_of(xl)))
        assert before < after, "limits are those of the plan that there is now"

    def test_a_model_of_unknown_size_has_the_limits_of_the_plan(self, tmp_path: Path, turbo: Choice) -> None:
        ledger = opened(tmp_path, [turbo], vram_budget=8)
        stranger = replace(info_of(turbo), name="stranger")
        assert ledger.decision is not None
        assert ledger.limited(stranger, []) == ledger.decision.limited(stranger)
        assert ledger.why_not_together([stranger] * 9) == ""
        assert MemoryLedger(None).limited(stranger) == stranger

    def test_nothing_is_too_large_for_main_memory(self, tmp_path: Path, turbo: Choice) -> None:
        ledger = opened(tmp_path, [turbo], device="cpu")
        there = ledger.limited(info_of(turbo), [])
        assert ledger.why_not_together([there] * 9) == ""
        assert ledger.limited(info_of(turbo), [there] * 9) == there


class TestRepeatedQuestions:
    """GET /v1/models asks for each planner and model: only what changed is searched for again."""

    @pytest.fixture
    def searches(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """The planner or model of each search so far."""
        names: list[str] = []

        def find_room(decision: Decision, size: QwenSize, *rest: Any) -> Decision | int:
            names.append(size.name)
            return find_room_before(decision, size, *rest)

        def on_demand(decision: Decision, info: ModelInfo, size: DitSize) -> ModelInfo:
            names.append(info.name)
            return on_demand_before(decision, info, size)

        find_room_before, on_demand_before = admission._find_room, admission._limited_on_demand
        monkeypatch.setattr(admission, "_find_room", find_room)
        monkeypatch.setattr(admission, "_limited_on_demand", on_demand)
        return names

    def test_a_planner_is_searched_for_once(self, tmp_path: Path, turbo: Choice, searches: list[str]) -> None:
        settings = Settings.load(tmp_path, vram_budget=24, device="cuda")
        ledger = opened(tmp_path, [turbo], vram_budget=24)
        there = [ledger.limited(info_of(turbo), [])]
        answers = [ledger.with_planner(MIDDLE, settings, there) for _ in range(5)]
        assert searches == [MIDDLE.name]
        assert all(answer is answers[0] for answer in answers)

    def test_so_is_one_without_room(self, tmp_path: Path, turbo: Choice, searches: list[str]) -> None:
        settings = Settings.load(tmp_path, vram_budget=8, device="cuda")
        ledger = opened(tmp_path, [turbo], vram_budget=8)
        errors = []
        for _ in range(3):
            with pytest.raises(InvalidFieldError) as refused:
                ledger.with_planner(PlannerChoice(PLANNERS[2].name), settings, [])
            errors.append(refused.value)
        assert searches == [PLANNERS[2].name]
        assert str(errors[0]) == str(errors[1]) == str(errors[2])
        assert errors[0] is not errors[1], "each has a traceback of its own"

    def test_other_models_another_decision_or_setting_are_another_question(
        self, tmp_path: Path, turbo: Choice, base: Choice, searches: list[str]
    ) -> None:
        settings = Settings.load(tmp_path, vram_budget=24, device="cuda")
        ledger = opened(tmp_path, [turbo], vram_budget=24)
        there = [ledger.limited(info_of(turbo), [])]
        ledger.with_planner(MIDDLE, settings, there)
        ledger.with_planner(MIDDLE, settings, [replace(there[0], max_batch=1)])
        assert len(searches) == 2
        ledger.know(base)
        ledger.with_planner(MIDDLE, settings, [*there, info_of(base)])
        assert len(searches) == 3
        ledger.with_planner(MIDDLE, settings.model_copy(update={"lm_offload_to_cpu": True}), there)
        assert len(searches) == 4
        before = ledger.with_planner(MIDDLE, settings, there)
        at_budget(ledger, 14)
        after = ledger.with_planner(MIDDLE, settings, there)
        assert before is not None and before.plan.placement("planner") == "resident"
        assert after is not None and after.plan.placement("planner") == "offloaded"

    def test_limits_are_searched_for_once(
        self, tmp_path: Path, turbo: Choice, base: Choice, searches: list[str]
    ) -> None:
        ledger = opened(tmp_path, [turbo], vram_budget=20)
        ledger.know(base)
        info = info_of(base)
        assert ledger.limited(info) == ledger.limited(info)
        assert ledger.limited(replace(info, state="ready")).state == "ready", "the rest is passed on"
        assert searches == [base.name]

    def test_threads_may_ask_at_once(self, tmp_path: Path, turbo: Choice, base: Choice, xl: Choice) -> None:
        ledger = opened(tmp_path, [turbo], vram_budget=24)
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(ledger.know, [base, xl] * 4))
            limits = list(threads.map(lambda _: ledger.limited(info_of(base)), range(8)))
        assert {usefulness(info) for info in limits} == {usefulness(ledger.limited(info_of(base)))}
        assert ledger.why_not_together([info_of(xl)] * 9) != "", "all sizes were noted"
