"""From settings and chosen models to the memory plan that a server starts with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from acestep.catalog.adapters import AdapterFolder
from acestep.catalog.checkpoints import Choice
from acestep.catalog.planner_choice import PlannerChoice
from acestep.device.probes import Probes, device_name, has_gpu
from acestep.domain.models import ModelInfo
from acestep.errors import ModelUnavailableError, SettingError
from acestep.memory.adapters import AdapterRoom, adapter_weights, adapters_left_out, with_adapters
from acestep.memory.configs import PLANNERS, sizes_of
from acestep.memory.number_formats import NumberFormats
from acestep.memory.plan import GB, Abilities, Device, MemoryPlan, Sizes, Wishes
from acestep.memory.search import Budget, Constraints, choose, gb, largest_planner, least, on_all_devices
from acestep.memory.sizes import VARIABLE, QwenSize, check_quantization
from acestep.settings.settings import Settings

ABILITIES = Abilities(offload=True, stream=True, offload_planner=True)  # by weights.offload

_LM_OFFLOAD = "ACESTEP_LM_OFFLOAD_TO_CPU"


@dataclass(frozen=True, slots=True)
class Decision:
    """The plan and what it was made for. `notes` are sentences for the log and /v1/stats.

    `planner_problem` is why the plan has no planner though one was chosen; `planner_elsewhere`: it runs on
    another device, which this plan does not cover.
    """

    plan: MemoryPlan
    constraints: Constraints
    sizes: Sizes
    notes: tuple[str, ...] = ()
    planner_elsewhere: bool = False
    planner_problem: str = ""

    @property
    def budget(self) -> Budget:
        return self.constraints.budget

    @property
    def adapters(self) -> AdapterRoom | None:
        """The limit for the adapters of a song; None: there is no limit."""
        room = self.plan.adapter_room
        return None if room is None else AdapterRoom(room, self.constraints.device.formats.bytes_of())

    def limited(self, info: ModelInfo) -> ModelInfo:
        batch, seconds = self.plan.max_batch, self.plan.max_duration
        return replace(
            info, max_batch=min(info.max_batch, batch), max_duration=min(info.max_duration, seconds)
        )

    def admitted(self, planner: PlannerChoice) -> PlannerChoice:
        return PlannerChoice(detail=self.planner_problem) if self.planner_problem else planner


def find_budget(settings: Settings, on_gpu: bool, probes: Probes) -> Budget:
    if not on_gpu:
        return Budget(probes.main_memory(), on_gpu, "available main memory")
    if settings.vram_budget is not None:
        return Budget(int(settings.vram_budget * GB), on_gpu, BUDGET)
    kind, _, number = settings.device.partition(":")
    free = probes.gpu_free(int(number or 0)) if kind in ("auto", "cuda") else None
    if settings.max_cuda_vram is not None and (free is None or settings.max_cuda_vram * GB < free):
        return Budget(int(settings.max_cuda_vram * GB), on_gpu, "MAX_CUDA_VRAM")
    return Budget(free, on_gpu, "free on the GPU at the start" if free else "unknown")


def room_for_planner(settings: Settings, gpu_memory: Callable[[], float]) -> float:
    """GB of the GPU that decide on the default planner where no plan can be made."""
    if (settings.lm_device or settings.device) == "cpu":
        return 0.0
    if settings.vram_budget is not None:
        return settings.vram_budget
    total = gpu_memory()
    return total if settings.max_cuda_vram is None else min(total, settings.max_cuda_vram)


@dataclass(frozen=True, slots=True)
class _Start:
    choices: tuple[Choice, ...]
    budget: Budget
    can: Abilities
    cpu: frozenset[str]
    planner_elsewhere: bool


def _start(settings: Settings, choices: Sequence[Choice], probes: Probes) -> _Start:
    # A model that requests will name is taken to be as large as the default model.
    on_demand = settings.models_in_memory - len(choices) if settings.on_demand_model_load else 0
    # A quantized planner runs on PyTorch, which can offload it; vLLM cannot.
    on_vllm = settings.quantization == "none" and settings.lm_backend == "vllm" and probes.has_vllm()
    own = settings.lm_device  # unset: not compared, since finding out what `auto` is may start a process
    return _Start(
        choices=(*choices, *[choices[0]] * on_demand),
        budget=find_budget(settings, has_gpu(settings.device), probes),
        can=replace(ABILITIES, offload_planner=not on_vllm),
        cpu=probes.cpu_flags(),
        planner_elsewhere=own is not None and device_name(own) != device_name(settings.device),
    )


def decide_for_server(
    settings: Settings, choices: Sequence[Choice], planner: PlannerChoice, probes: Probes
) -> Decision | None:
    """As `decide`, on the budget of the device that the settings name."""
    check_quantization(settings.quantization, (settings.device, settings.lm_device or settings.device))
    start = _start(settings, choices, probes)
    elsewhere = start.planner_elsewhere
    here = PlannerChoice() if elsewhere else planner
    decision = decide(start.choices, here, settings, start.budget, start.can, start.cpu)
    if decision and elsewhere and planner.name and settings.lm_offload_to_cpu:
        note = (
            f"{_LM_OFFLOAD}=true has no effect: the planner is on {settings.lm_device} (ACESTEP_LM_DEVICE)."
        )
        decision = replace(decision, notes=(*decision.notes, note))
    return decision and replace(decision, planner_elsewhere=elsewhere)


def planner_for_server(
    settings: Settings, choices: Sequence[Choice], probes: Probes, documented: str
) -> str | None:
    """The published planner that is the default on all devices; None where no plan can say."""
    return on_all_devices(
        _default_planner(settings.on(device), choices, probes, documented) for device in settings.devices
    )


def _default_planner(
    settings: Settings, choices: Sequence[Choice], probes: Probes, documented: str
) -> str | None:
    start = _start(settings, choices, probes)
    sizes, budget = sizes_of(start.choices, PlannerChoice()), start.budget
    if sizes is None or start.planner_elsewhere or not budget.on_gpu or budget.size is None:
        return None
    constraints = _constraints(settings, budget, start.can, start.cpu)
    wishes, _ = _wishes(settings, PlannerChoice(documented), constraints)

    def plans(planners: tuple[QwenSize, ...]) -> list[MemoryPlan]:
        return constraints.options(replace(counted, planners=planners), wishes)

    counted, _ = _with_kept(replace(sizes, planners=PLANNERS), wishes, constraints, settings)
    return largest_planner(plans, budget.size, documented)


def decide(
    choices: Sequence[Choice],
    planner: PlannerChoice,
    settings: Settings,
    budget: Budget,
    can: Abilities | None = None,
    cpu: frozenset[str] = frozenset(),
) -> Decision | None:
    """The plan for these models; None where a config does not give the size of its model.

    `cpu` are the flags of the CPU. Raises SettingError for a setting that cannot be kept within the budget,
    ModelUnavailableError where the models do not fit with any settings.
    """
    sizes = sizes_of(choices, planner)
    if sizes is None:
        return None
    constraints = _constraints(settings, budget, can or ABILITIES, cpu)
    wishes, notes = _wishes(settings, planner, constraints)
    if budget.size is None:
        notes.append(f"The size of the GPU's memory is unknown, so nothing is limited: set {BUDGET}.")
        return Decision(constraints.options(sizes, wishes)[0], constraints, sizes, tuple(notes))
    sizes, left_out = _with_kept(sizes, wishes, constraints, settings)
    notes += left_out
    plans = constraints.options(sizes, wishes)
    plan = choose(plans, budget.size)
    if plan is None and budget.on_gpu:
        raise diagnosis(sizes, wishes, constraints)
    if plan is None:
        plan = min(plans, key=lambda each: each.peak)
        notes.append(
            f"The models take up about {gb(plan.peak)} of main memory, and {gb(budget.size)} are available: "
            "the server may be slow, or be ended by the system."
        )
    problem = ""
    if planner.name and not plan.planner:
        problem = (
            f"There is no room for the planner {planner.name} within {gb(budget.size)}; to have it, set "
            "ACESTEP_INIT_LLM=true, which may make the rest slower."
        )
        notes.append(problem)
    if budget.on_gpu:
        plan, sizes = with_adapters(plan, sizes, constraints)
    return Decision(plan, constraints, sizes, tuple(notes), planner_problem=problem)


def _constraints(settings: Settings, budget: Budget, can: Abilities, cpu: frozenset[str]) -> Constraints:
    formats = NumberFormats(settings.dtype, None if budget.on_gpu else cpu)
    device = Device(formats) if budget.on_gpu else Device.cpu(formats)
    return Constraints(budget, replace(device, quantization=settings.quantization), can)


def _with_kept(
    sizes: Sizes, wishes: Wishes, constraints: Constraints, settings: Settings
) -> tuple[Sizes, list[str]]:
    # The sizes with the adapters in the folder, or a note where these have no room.
    budget = constraints.budget
    kept = adapter_weights(AdapterFolder(settings.lora_dir)) if budget.on_gpu else 0
    roomy = replace(sizes, adapters=kept)
    if not kept or choose(constraints.options(roomy, wishes), budget.size or 0):
        return roomy, []
    return sizes, [adapters_left_out(kept, constraints)]


def table(decision: Decision) -> list[str]:
    plan, budget = decision.plan, decision.budget
    lines = [f"Memory plan: {gb(plan.peak)} at most, of {budget}"]
    lines += [
        f"  {part.name:<18} {part.placement:<10} {gb(part.size):>9}  at the peak {gb(part.held):>9}"
        for part in plan.parts
    ]
    lines.append(
        f"  peak in stage {plan.stage}; up to {plan.max_batch} songs of {plan.max_duration:g} s at once, "
        f"decoded by {plan.tile} frames"
    )
    if plan.planner:
        lines[-1] += f"; the planner writes {plan.sequences} texts of {plan.length} tokens"
    if plan.quantization != "none":
        lines[-1] += f"; DiT and planner in {plan.quantization}"
    return lines


def _wishes(settings: Settings, planner: PlannerChoice, constraints: Constraints) -> tuple[Wishes, list[str]]:
    # What the settings ask of the plan, and a note for each that has no effect.
    on_gpu, can = constraints.budget.on_gpu, constraints.can
    notes: list[str] = []

    def granted(field: str, wish: bool | None, able: bool) -> bool | None:
        if not on_gpu or wish is not True or able:
            return wish if on_gpu else None
        notes.append(f"{field}=true has no effect in this version, which keeps those models on the GPU.")
        return None

    offload = granted("ACESTEP_OFFLOAD_TO_CPU", settings.offload_to_cpu, can.offload)
    # False is the default, and allows offloading.
    dit = granted("ACESTEP_OFFLOAD_DIT_TO_CPU", settings.offload_dit_to_cpu or None, can.offload)
    lm = settings.lm_offload_to_cpu if on_gpu else None
    if lm and planner.name and not can.offload_planner:
        notes.append(
            f"{_LM_OFFLOAD}=true: vLLM, which is installed, keeps the planner on the GPU. Set "
            "ACESTEP_LM_BACKEND=pt to have it in main memory while it is idle."
        )
        lm = None
    if offload is False:
        dit, lm = dit or False, lm or False
    must = None if planner.name and settings.init_llm is None else bool(planner.name)
    return Wishes(offload, dit, lm, settings.vae_decode_chunk_size, must), notes


BUDGET = "ACESTEP_VRAM_BUDGET"


def diagnosis(sizes: Sizes, wishes: Wishes, constraints: Constraints) -> SettingError | ModelUnavailableError:
    """Why nothing fits: the first setting without which something would, or the budget."""
    budget, device = constraints.budget, constraints.device
    assert budget.size is not None
    needed = least(constraints.options(sizes, wishes))
    shortage = f"at least {gb(needed)} are needed, and there are {budget}"
    if wishes.planner and not constraints.can.offload_planner:
        enough = least(constraints.with_planner_moved().options(sizes, wishes))
        if enough <= budget.size:
            allowed = f"pt, which takes {gb(enough)}, as the idle planner is offloaded; with vllm {shortage}"
            return SettingError("ACESTEP_LM_BACKEND", "vllm", allowed)
    if smaller := _smaller_planner(sizes, wishes, constraints):
        name, enough = smaller
        allowed = f"{name}, which takes {gb(enough)}; with this one {shortage}"
        return SettingError("ACESTEP_LM_MODEL_PATH", sizes.planners[0].name, allowed)
    loosened = {
        "ACESTEP_OFFLOAD_TO_CPU": replace(wishes, offload=None, offload_dit=None, offload_planner=None),
        "ACESTEP_LM_OFFLOAD_TO_CPU": replace(wishes, offload_planner=None),
        "ACESTEP_VAE_DECODE_CHUNK_SIZE": replace(wishes, tile=None),
        "ACESTEP_INIT_LLM": replace(wishes, planner=False),
    }
    for variable, looser in loosened.items():
        enough = least(constraints.options(sizes, looser))
        if looser != wishes and enough <= budget.size:
            value = _value(variable, wishes)
            allowed = f"{_other(variable)}, which takes {gb(enough)}; with {value} {shortage}"
            return SettingError(variable, value, allowed)
    if device.quantization == "none":
        packed = replace(constraints, device=replace(device, quantization="int8"))
        enough = least(packed.options(sizes, wishes))
        if enough <= budget.size:
            allowed = f"int8, which takes {gb(enough)} (songs change a little); with none {shortage}"
            return SettingError(VARIABLE, "none", allowed)
    names = ", ".join([dit.name for dit in sizes.dits] + [planner.name for planner in sizes.planners])
    if budget.source == BUDGET:
        return SettingError(
            BUDGET, f"{budget.size / GB:g}", f"{-(-needed * 10 // GB) / 10:g} GB or more for {names}"
        )
    return ModelUnavailableError(
        f"{names}: at least {gb(needed)} of GPU memory are needed, and there are {budget}. "
        f"Set ACESTEP_DEVICE=cpu, or ACESTEP_CONFIG_PATH to a smaller model."
    )


def _smaller_planner(sizes: Sizes, wishes: Wishes, constraints: Constraints) -> tuple[str, int] | None:
    # The largest published planner that would fit, and the bytes of its plan.
    for planner in reversed(PLANNERS):
        if wishes.planner and planner.weights < sizes.planners[0].weights:
            enough = least(constraints.options(replace(sizes, planners=(planner,)), wishes))
            if enough <= (constraints.budget.size or 0):
                return planner.name, enough
    return None


def _value(variable: str, wishes: Wishes) -> str:
    if variable == "ACESTEP_VAE_DECODE_CHUNK_SIZE":
        return str(wishes.tile)
    return "true" if variable == "ACESTEP_INIT_LLM" else "false"


def _other(variable: str) -> str:
    return "false" if variable == "ACESTEP_INIT_LLM" else "auto"
