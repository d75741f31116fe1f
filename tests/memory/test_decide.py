"""Where sizes and budgets come from, and what is said when they do not go together."""

from dataclasses import replace
from pathlib import Path

import pytest

from acestep.catalog.adapters import AdapterFolder
from acestep.catalog.checkpoints import NANO_MODEL, Choice, choose, require
from acestep.catalog.planner_choice import SMALLEST, PlannerChoice
from acestep.device.probes import Probes
from acestep.domain.models import ModelInfo
from acestep.errors import SettingError
from acestep.memory import decide as deciding
from acestep.memory.adapters import SPARE, adapter_weights
from acestep.memory.configs import PLANNERS
from acestep.memory.decide import (
    Decision,
    decide,
    decide_for_server,
    find_budget,
    planner_for_server,
    room_for_planner,
    table,
)
from acestep.memory.plan import GB, Abilities
from acestep.memory.search import Budget
from acestep.settings.settings import Settings
from tests.adapter_headers import write_header

NONE = PlannerChoice()
MIDDLE = PlannerChoice("acestep-5Hz-lm-1.7B")
PROBES = Probes(gpu_free=lambda number: (10 + number) * GB, main_memory=lambda: 32 * GB)
SILENT = Probes(gpu_free=lambda _: None, main_memory=lambda: None)


def on_gpu(size: float | None, source: str = "free on the GPU at the start") -> Budget:
    return Budget(None if size is None else int(size * GB), on_gpu=True, source=source)


def decided(choice: Choice, planner: PlannerChoice, settings: Settings, budget: Budget) -> Decision:
    found = decide([choice], planner, settings, budget)
    assert found is not None
    return found


class TestBudget:
    def test_what_is_free_on_the_gpu_that_is_used(self, tmp_path: Path) -> None:
        assert find_budget(Settings.load(tmp_path), True, PROBES).size == 10 * GB
        assert find_budget(Settings.load(tmp_path, device="cuda:2"), True, PROBES).size == 12 * GB

    def test_what_is_set_goes_before_it(self, tmp_path: Path) -> None:
        settings = Settings.load(tmp_path, vram_budget=6.5, max_cuda_vram=4)
        budget = find_budget(settings, True, PROBES)
        assert (budget.size, budget.source) == (int(6.5 * GB), "ACESTEP_VRAM_BUDGET")

    def test_max_cuda_vram_can_only_lessen(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MAX_CUDA_VRAM", "8")
        assert find_budget(Settings.load(tmp_path), True, PROBES) == on_gpu(8, "MAX_CUDA_VRAM")
        monkeypatch.setenv("MAX_CUDA_VRAM", "80")
        assert find_budget(Settings.load(tmp_path), True, PROBES).size == 10 * GB

    def test_main_memory_where_there_is_no_gpu(self, tmp_path: Path) -> None:
        settings = Settings.load(tmp_path, vram_budget=4)
        assert find_budget(settings, False, PROBES) == Budget(32 * GB, False, "available main memory")

    def test_nobody_knows(self, tmp_path: Path) -> None:
        assert find_budget(Settings.load(tmp_path, device="mps"), True, PROBES).size is None
        assert find_budget(Settings.load(tmp_path), True, SILENT).size is None


class TestSizes:
    def test_nano_is_small(self, tmp_path: Path) -> None:
        nano = choose(NANO_MODEL, tmp_path, lambda: False, lambda: False)
        decision = decided(nano, NONE, Settings.load(tmp_path), Budget(16 * GB, False, "main memory"))
        weights = sum(part.size for part in decision.plan.parts if part.name not in ("work", "reserve"))
        checkpoint = require(NANO_MODEL, tmp_path)
        files = sum(path.stat().st_size for path in checkpoint.dit.rglob("*.safetensors"))
        assert weights == pytest.approx(2 * files, rel=0.2)  # bfloat16 on disk, float32 in memory
        assert (decision.plan.max_batch, decision.plan.max_duration) == (8, 600)

    def test_a_folder_that_does_not_say_is_not_planned(self, tmp_path: Path, turbo: Choice) -> None:
        (tmp_path / "lm").mkdir()
        (tmp_path / "lm" / "config.json").write_text("{}")
        planner = PlannerChoice("lm", tmp_path / "lm")
        assert decide([turbo], planner, Settings.load(tmp_path), on_gpu(24)) is None

    def test_several_models_take_more(self, tmp_path: Path, turbo: Choice) -> None:
        settings = Settings.load(tmp_path)
        base = choose("acestep-v15-base", tmp_path, lambda: True, lambda: True)
        one = decided(turbo, NONE, settings, on_gpu(80)).plan
        two = decide([turbo, base], NONE, settings, on_gpu(80))
        assert two is not None
        assert two.plan.peak > one.peak + 4 * GB


class TestWishes:
    def test_what_cannot_be_done_yet_is_said(
        self, tmp_path: Path, turbo: Choice, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(deciding, "ABILITIES", Abilities())
        settings = Settings.load(tmp_path, offload_to_cpu=True, offload_dit_to_cpu=True)
        decision = decided(turbo, NONE, settings, on_gpu(16))
        assert {part.placement for part in decision.plan.parts} == {"resident"}
        assert [note.partition("=")[0] for note in decision.notes] == [
            "ACESTEP_OFFLOAD_TO_CPU",
            "ACESTEP_OFFLOAD_DIT_TO_CPU",
        ]

    def test_where_models_run_on_a_cpu_they_are_there_already(self, tmp_path: Path, turbo: Choice) -> None:
        settings = Settings.load(tmp_path, offload_to_cpu=True, lm_offload_to_cpu=True)
        decision = decided(turbo, NONE, settings, Budget(64 * GB, False, "main memory"))
        assert decision.notes == ()

    @pytest.mark.usefixtures("moving")
    def test_what_can_be_done_is(self, tmp_path: Path, turbo: Choice) -> None:
        settings = Settings.load(tmp_path, offload_to_cpu=True, lm_offload_to_cpu=True, init_llm=True)
        plan = decided(turbo, MIDDLE, settings, on_gpu(16)).plan
        assert [plan.placement(name) for name in ("text encoder", "VAE", "planner", "DiT")] == [
            "offloaded",
            "offloaded",
            "offloaded",
            "resident",
        ]

    @pytest.mark.parametrize(("budget", "fits"), [(6, True), (5, False)])
    def test_turbo_and_the_planner_of_1_7_b_in_six_gb(
        self, tmp_path: Path, turbo: Choice, budget: float, fits: bool
    ) -> None:
        settings = Settings.load(tmp_path, init_llm=True, vram_budget=budget, device="cuda")
        if not fits:
            with pytest.raises(SettingError, match="ACESTEP_LM_MODEL_PATH"):
                decide_for_server(settings, [turbo], MIDDLE, PROBES)
            return
        decision = decide_for_server(settings, [turbo], MIDDLE, PROBES)
        assert decision is not None
        assert (decision.plan.planner, decision.plan.placement("planner")) == (MIDDLE.name, "offloaded")
        assert decision.plan.max_duration >= 240
        assert decision.plan.peak <= 6 * GB

    def test_what_vllm_cannot_do_is_said(self, tmp_path: Path, turbo: Choice) -> None:
        probes = replace(PROBES, has_vllm=lambda: True)
        wish = Settings.load(tmp_path, init_llm=True, lm_offload_to_cpu=True, vram_budget=16, device="cuda")
        decision = decide_for_server(wish, [turbo], MIDDLE, probes)
        assert decision is not None and decision.plan.placement("planner") == "resident"
        assert any("ACESTEP_LM_OFFLOAD_TO_CPU=true: vLLM" in note for note in decision.notes)
        small = Settings.load(tmp_path, init_llm=True, vram_budget=6, device="cuda")
        with pytest.raises(SettingError, match=r"^ACESTEP_LM_BACKEND='vllm' .*pt, which takes"):
            decide_for_server(small, [turbo], MIDDLE, probes)
        on_pytorch = Settings.load(
            tmp_path, init_llm=True, vram_budget=6, device="cuda", lm_backend="pt", lm_offload_to_cpu=True
        )
        decision = decide_for_server(on_pytorch, [turbo], MIDDLE, probes)
        assert decision is not None and decision.notes == ()
        packed = Settings.load(
            tmp_path,
            init_llm=True,
            vram_budget=16,
            device="cuda",
            lm_offload_to_cpu=True,
            quantization="int8",
        )
        decision = decide_for_server(packed, [turbo], MIDDLE, probes)
        assert decision is not None and decision.notes == ()
        assert decision.plan.placement("planner") == "offloaded", "the planner runs on PyTorch, quantized"

    def test_a_planner_on_another_device_is_not_offloaded(self, tmp_path: Path, turbo: Choice) -> None:
        settings = Settings.load(
            tmp_path, init_llm=True, device="cuda", lm_device="cuda:1", lm_offload_to_cpu=True
        )
        decision = decide_for_server(settings, [turbo], MIDDLE, PROBES)
        assert decision is not None and "on cuda:1 (ACESTEP_LM_DEVICE)" in decision.notes[-1]

    def test_a_planner_that_was_not_asked_for_gives_way(self, tmp_path: Path, turbo: Choice) -> None:
        decision = decided(turbo, MIDDLE, Settings.load(tmp_path), on_gpu(9))
        assert decision.plan.planner == ""
        assert "ACESTEP_INIT_LLM=true" in decision.notes[0]

    def test_an_unknown_device_is_not_limited(self, tmp_path: Path, turbo: Choice) -> None:
        decision = decided(turbo, NONE, Settings.load(tmp_path), on_gpu(None, "unknown"))
        assert (decision.plan.max_batch, decision.plan.max_duration) == (8, 600)
        assert "ACESTEP_VRAM_BUDGET" in decision.notes[0]

    def test_a_cpu_with_too_little_memory_is_told(self, tmp_path: Path, turbo: Choice) -> None:
        decision = decided(turbo, NONE, Settings.load(tmp_path), Budget(4 * GB, False, "main memory"))
        assert "slow" in decision.notes[0] and "4.00 GB" in decision.notes[0]


class TestServer:
    def test_limits_are_those_of_the_plan(self, tmp_path: Path, turbo: Choice) -> None:
        info = ModelInfo("any", is_turbo=True, steps=8, guidance_scale=1, shift=3, max_steps=8)
        decision = decided(turbo, NONE, Settings.load(tmp_path), on_gpu(7))
        limited = decision.limited(info)
        assert (limited.max_batch, limited.max_duration) == (
            decision.plan.max_batch,
            decision.plan.max_duration,
        )
        assert limited.max_batch < info.max_batch
        assert decision.limited(replace(info, max_batch=1)).max_batch == 1

    def test_a_planner_without_room_is_told_why(self, tmp_path: Path, turbo: Choice) -> None:
        decision = decided(turbo, MIDDLE, Settings.load(tmp_path), on_gpu(9))
        assert "There is no room for the planner acestep-5Hz-lm-1.7B" in decision.planner_problem
        assert decision.planner_problem in decision.notes
        later = replace(decision, notes=(*decision.notes, "Something else."))
        for each in (decision, later, replace(decision, notes=())):
            assert each.admitted(MIDDLE) == PlannerChoice(detail=decision.planner_problem)
        roomy = decided(turbo, MIDDLE, Settings.load(tmp_path), on_gpu(24))
        assert roomy.admitted(MIDDLE) == MIDDLE

    def test_a_planner_on_another_device_takes_no_room(self, tmp_path: Path, turbo: Choice) -> None:
        settings = Settings.load(tmp_path, device="cuda", lm_device="cpu", init_llm=True)
        decision = decide_for_server(settings, [turbo], MIDDLE, PROBES)
        assert decision is not None
        assert decision.plan.planner == ""
        assert decision.admitted(MIDDLE) == MIDDLE

    @pytest.mark.parametrize(("device", "own"), [("cuda", "cuda:0"), ("cuda:1", "cuda:1"), ("xpu", "xpu")])
    def test_a_planner_on_the_same_device_by_another_name_takes_room(
        self, tmp_path: Path, turbo: Choice, device: str, own: str
    ) -> None:
        settings = Settings.load(tmp_path, device=device, lm_device=own, init_llm=True, vram_budget=24)
        decision = decide_for_server(settings, [turbo], MIDDLE, PROBES)
        assert decision is not None and decision.plan.planner == MIDDLE.name

    def test_room_is_kept_for_models_that_come_on_demand(self, tmp_path: Path, turbo: Choice) -> None:
        one = decide_for_server(Settings.load(tmp_path, device="cuda"), [turbo], NONE, PROBES)
        settings = Settings.load(tmp_path, device="cuda", on_demand_model_load=True, vram_budget=40)
        two = decide_for_server(settings, [turbo], NONE, PROBES)
        full = decide_for_server(settings, [turbo, turbo], NONE, PROBES)
        assert one is not None and two is not None and full is not None
        sizes = [
            next(part.size for part in each.plan.parts if part.name == "DiT") for each in (one, two, full)
        ]
        assert sizes == [sizes[0], 2 * sizes[0], 2 * sizes[0]]

    @pytest.mark.parametrize(
        ("given", "room"),
        [
            ({}, 24),
            ({"max_cuda_vram": 8}, 8),
            ({"max_cuda_vram": 48}, 24),
            ({"vram_budget": 6}, 6),
            ({"device": "cpu"}, 0),
            ({"lm_device": "cpu", "vram_budget": 6}, 0),
            ({"device": "cpu", "lm_device": "cuda"}, 24),
        ],
    )
    def test_a_planner_is_chosen_by_what_may_be_used(
        self, tmp_path: Path, given: dict[str, object], room: float
    ) -> None:
        assert room_for_planner(Settings.load(tmp_path, **given), lambda: 24) == room

    def test_a_cpu_is_planned_too(self, tmp_path: Path) -> None:
        nano = choose(NANO_MODEL, tmp_path, lambda: False, lambda: False)
        decision = decide_for_server(Settings.load(tmp_path, device="cpu"), [nano], NONE, PROBES)
        assert decision is not None
        assert (decision.budget.size, decision.budget.on_gpu) == (32 * GB, False)


class TestAdapters:
    """A song may use four; the largest four of those that lie there are counted, and some of what is left."""

    @pytest.fixture
    def settings(self, tmp_path: Path) -> Settings:
        for number in range(5):
            write_header(tmp_path / "lora" / f"a{number}")
        return Settings.load(tmp_path, lora_dir=tmp_path / "lora", vram_budget=8, device="cuda")

    def test_room_is_kept_for_those_that_are_there(self, settings: Settings, turbo: Choice) -> None:
        kept = adapter_weights(AdapterFolder(settings.lora_dir))
        assert kept == 4 * AdapterFolder(settings.lora_dir).find("a0").weights > 0
        decision = decide_for_server(settings, [turbo], NONE, PROBES)
        assert decision is not None and decision.adapters is not None
        assert 2 * kept <= decision.adapters.size <= 2 * kept + SPARE
        (part,) = (part for part in decision.plan.parts if part.name == "adapters")
        assert part.size == decision.adapters.size
        assert decision.plan.peak <= 8 * GB

    def test_each_model_has_its_own(self, settings: Settings, turbo: Choice) -> None:
        settings = settings.model_copy(update={"vram_budget": 40.0})
        decision = decide_for_server(settings, [turbo, turbo], NONE, PROBES)
        assert decision is not None and decision.adapters is not None
        (part,) = (part for part in decision.plan.parts if part.name == "adapters")
        assert part.size == 2 * decision.adapters.size

    def test_models_go_before_adapters(
        self, settings: Settings, turbo: Choice, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(deciding, "adapter_weights", lambda folder: 4 * GB)
        decision = decide_for_server(settings, [turbo], NONE, PROBES)
        assert decision is not None and decision.adapters is not None
        assert decision.adapters.size < 8 * GB
        assert "ACESTEP_LORA_DIR" in decision.notes[0] and "8.00 GB" in decision.notes[0]

    def test_nothing_is_limited_on_a_cpu(self, settings: Settings, turbo: Choice) -> None:
        settings = settings.model_copy(update={"device": "cpu"})
        decision = decide_for_server(settings, [turbo], NONE, PROBES)
        assert decision is not None and decision.adapters is None


class TestPlannerByItself:
    """The plan says which published planner has room; `largest_planner` has the rule."""

    def named(self, folder: Path, budget: float, models: list[Choice], **given: object) -> str | None:
        settings = Settings.load(folder, **({"device": "cuda", "vram_budget": budget} | given))
        return planner_for_server(settings, models, PROBES, SMALLEST)

    def test_quantization_makes_room_for_a_larger_one(self, tmp_path: Path, turbo: Choice) -> None:
        plain = [self.named(tmp_path, budget, [turbo]) for budget in (8, 14, 16, 24)]
        packed = [self.named(tmp_path, budget, [turbo], quantization="int8") for budget in (8, 14, 16, 24)]
        assert plain == ["", PLANNERS[0].name, PLANNERS[1].name, PLANNERS[2].name]
        assert packed == ["", PLANNERS[1].name, PLANNERS[2].name, PLANNERS[2].name]

    def test_models_have_their_room_first(self, tmp_path: Path, turbo: Choice) -> None:
        xl = choose("acestep-v15-xl-turbo", tmp_path, lambda: True, lambda: True)
        assert self.named(tmp_path, 18, [xl]) == PLANNERS[0].name
        assert self.named(tmp_path, 18, [turbo, xl]) == ""
        assert self.named(tmp_path, 21, [turbo]) == PLANNERS[2].name
        on_demand = self.named(tmp_path, 21, [turbo], on_demand_model_load=True, models_in_memory=2)
        assert on_demand == PLANNERS[1].name

    def test_one_that_is_to_be_moved_comes_as_well(self, tmp_path: Path, turbo: Choice) -> None:
        assert self.named(tmp_path, 19.5, [turbo]) == PLANNERS[1].name
        assert self.named(tmp_path, 19.5, [turbo], lm_offload_to_cpu=True) == PLANNERS[2].name
        settings = Settings.load(tmp_path, lm_offload_to_cpu=True)
        plan = decided(turbo, PlannerChoice(PLANNERS[2].name), settings, on_gpu(19.5)).plan
        assert (plan.planner, plan.placement("planner")) == (PLANNERS[2].name, "offloaded")

    def test_adapters_have_their_room_first(
        self, tmp_path: Path, turbo: Choice, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert self.named(tmp_path, 13, [turbo]) == PLANNERS[0].name
        monkeypatch.setattr(deciding, "adapter_weights", lambda folder: GB)
        assert self.named(tmp_path, 13, [turbo]) == ""

    def test_it_fits_on_every_device(self, tmp_path: Path, turbo: Choice) -> None:
        settings = Settings.load(tmp_path, device="cuda:4,cuda:14")  # PROBES: 14 and 24 GB
        assert planner_for_server(settings, [turbo], PROBES, SMALLEST) == PLANNERS[0].name

    @pytest.mark.parametrize("given", [{"device": "cpu"}, {"lm_device": "cuda:1"}, {"device": "mps"}])
    def test_where_nobody_knows_no_plan_says(
        self, tmp_path: Path, turbo: Choice, given: dict[str, object]
    ) -> None:
        assert self.named(tmp_path, 24, [turbo], **({"vram_budget": None} | given)) is None

    def test_the_planner_that_comes_is_the_one_that_is_planned(self, tmp_path: Path, turbo: Choice) -> None:
        for budget in (12.5, 15, 20.5, 24):
            name = self.named(tmp_path, budget, [turbo])
            decision = decided(turbo, PlannerChoice(name or ""), Settings.load(tmp_path), on_gpu(budget))
            assert decision.plan.planner == name != ""
            assert {part.placement for part in decision.plan.parts} == {"resident"}
            assert decision.plan.max_duration == 600


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_quantized_weights_are_planned(tmp_path: Path, turbo: Choice, kind: str) -> None:
    plain = decided(turbo, MIDDLE, Settings.load(tmp_path), on_gpu(24))
    packed = decided(turbo, MIDDLE, Settings.load(tmp_path, quantization=kind), on_gpu(24))
    before, after = ({part.name: part.size for part in each.plan.parts} for each in (plain, packed))
    assert before["DiT"] / 2 < after["DiT"] < 0.55 * before["DiT"]
    assert after["planner"] < before["planner"] - GB
    assert before["text encoder"] == after["text encoder"] and before["VAE"] == after["VAE"]
    assert (plain.plan.quantization, packed.plan.quantization) == ("none", kind)
    assert table(packed)[-1].endswith(f"DiT and planner in {kind}") and "in none" not in table(plain)[-1]


@pytest.mark.parametrize(
    ("wish", "flag", "dit", "vae"),
    [
        ("auto", "avx512_bf16", 2, 4),
        ("auto", "avx2", 4, 4),
        ("fp32", "amx_bf16", 4, 4),
        ("bf16", "", 2, 4),
    ],
)
def test_the_plan_of_a_cpu_knows_the_number_format(
    wish: str, flag: str, dit: int, vae: int, tmp_path: Path, turbo: Choice
) -> None:
    settings = Settings.load(tmp_path, device="cpu", dtype=wish)
    probes = replace(PROBES, cpu_flags=lambda: frozenset({flag}))
    decision = decide_for_server(settings, [turbo], MIDDLE, probes)
    assert decision is not None
    size = {part.name: part.size for part in decision.plan.parts}
    assert size["DiT"] == dit * decision.sizes.dits[0].transformer
    assert size["text encoder"] == dit * decision.sizes.text.trunk
    assert decision.sizes.vae is not None and size["VAE"] == vae * decision.sizes.vae.weights
    assert size["planner"] > dit * decision.sizes.planners[0].weights


def test_the_table_adds_up(tmp_path: Path, turbo: Choice) -> None:
    decision = decided(turbo, MIDDLE, Settings.load(tmp_path), on_gpu(24))
    lines = table(decision)
    held = [float(line.split()[-2]) for line in lines[1:-1]]
    assert sum(held) == pytest.approx(decision.plan.peak / GB, abs=0.01 * len(held))
    assert "24.00 GB" in lines[0] and f"{decision.plan.max_batch} songs" in lines[-1]
