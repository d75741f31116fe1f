"""Models and planners that come while the server runs: beside whom they fit, and with which limits."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from acestep.catalog.checkpoints import Choice, choose
from acestep.catalog.planner_choice import SMALLEST, PlannerChoice
from acestep.device.probes import Probes
from acestep.domain.models import ModelInfo
from acestep.errors import CheckpointError, InvalidFieldError
from acestep.memory.admission import MemoryLedger, with_planner
from acestep.memory.configs import PLANNERS
from acestep.memory.decide import Decision, decide_for_server
from acestep.memory.plan import GB
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
        assert after.plan.settled == before.plan.settled
        assert after.plan.peak <= 24 * GB
        assert after.adapters == before.adapters
        smaller = with_planner(after, PlannerChoice("acestep-5Hz-lm-0.6B"), settings)
        assert smaller.plan.peak < after.plan.peak

    def test_it_makes_way_where_there_is_no_room_for_both(self, tmp_path: Path, turbo: Choice) -> None:
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
        assert alone.plan.settled == beside.plan.settled, "models are not told that anything changed"
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
        [(26, "none", 2), (20, "none", 1), (18, "none", 0), (18, "int8", 1), (8, "none", 0)],
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
        for budget, smaller in ((17, True), (20, True), (24, False)):
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
        assert enough == pytest.approx(16.73, abs=0.1)
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
        given: dict[str, Any] = {"on_demand_model_load": True, "models_in_memory": 2, "vram_budget": 18}
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
