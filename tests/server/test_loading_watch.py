from __future__ import annotations

from dataclasses import replace

from acestep.domain.models import ModelInfo, ModelState, PlannerInfo
from acestep.server.loading_watch import LoadingWatch

NANO = ModelInfo("acestep-nano", is_turbo=True, steps=8, guidance_scale=1.0, shift=3.0, max_steps=8)
BASE = replace(NANO, name="acestep-v15-base", is_default=False)


class FakeModels:
    def __init__(self) -> None:
        self.now = 100.0
        self.known = [replace(NANO, state="loading"), replace(BASE, state="ready")]
        self.planner = PlannerInfo("acestep-5Hz-lm-1.7B", "on_disk")
        self.watch = LoadingWatch(self.models, self.planners, lambda: self.now)

    def models(self) -> tuple[ModelInfo, ...]:
        return tuple(self.known)

    def planners(self) -> tuple[PlannerInfo, ...]:
        return (self.planner,)

    def become(self, state: ModelState, detail: str = "", number: int = 0) -> None:
        self.known[number] = replace(self.known[number], state=state, detail=detail)

    def after(self, seconds: float) -> list[str]:
        """What the log says some seconds later."""
        self.now += seconds
        return self.watch.look()


def test_every_five_seconds_the_log_says_that_a_model_is_loading() -> None:
    models = FakeModels()
    assert [models.after(0), models.after(4)] == [[], []]
    assert models.after(1) == ["The model acestep-nano is loading, 5 s so far"]
    assert [models.after(1), models.after(3.9)] == [[], []]
    assert models.after(2.1) == ["The model acestep-nano is loading, 12 s so far"]
    models.become("ready")
    assert models.after(60) == []
    models.become("loading")
    assert [models.after(0), models.after(6)] == [[], ["The model acestep-nano is loading, 6 s so far"]]


def test_a_download_says_how_far_it_is_and_a_planner_counts_too() -> None:
    models = FakeModels()
    models.become("downloading", "12 % of 6.3 GB")
    models.planner = replace(models.planner, state="loading")
    assert models.after(0) == []
    assert models.after(7) == [
        "The model acestep-nano is downloading: 12 % of 6.3 GB, 7 s so far",
        "The planner acestep-5Hz-lm-1.7B is loading, 7 s so far",
    ]


def test_a_job_hears_of_its_own_model() -> None:
    models = FakeModels()
    models.after(0)
    assert models.watch.notes == {
        None: "The model acestep-nano is loading, 0 s so far",
        "acestep-nano": "The model acestep-nano is loading, 0 s so far",
        "acestep-v15-base": "",
    }
    models.after(12)
    assert models.watch.notes[None] == "The model acestep-nano is loading, 12 s so far"
    models.become("ready")
    models.become("loading", number=1)
    models.after(1)
    assert models.watch.notes == {
        None: "",
        "acestep-nano": "",
        "acestep-v15-base": "The model acestep-v15-base is loading, 0 s so far",
    }
