"""From settings and folders to the memory plan of this server.

Owns where sizes and the budget come from, what settings wish, and the sentences: why there is no plan, and
what would make one. Reads small JSON files; asks the machine by probes that it is given. Knows nothing of
torch or HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from acestep.adapters import AdapterFolder
from acestep.checkpoints import Checkpoint, Choice, gpu_present, read_json
from acestep.domain import ModelInfo
from acestep.errors import CheckpointError, InvalidFieldError
from acestep.memory.lora import AdapterRoom, adapter_weights, no_room, with_adapters
from acestep.memory.plan import GB, Abilities, Device, MemoryPlan, Sizes, Wishes, choose
from acestep.memory.probes import Probes
from acestep.memory.refusals import BUDGET, refusal
from acestep.memory.situation import Budget, Situation, gb
from acestep.memory.sizes import PLANNERS, TEXT_ENCODER, VAE, DitSize, QwenSize, VaeSize, published_dit
from acestep.memory.stored import check_quantization
from acestep.planners import PlannerChoice
from acestep.settings import Settings

CARRIED_OUT = Abilities(offload=True, stream=True, offload_planner=True)  # by `residency`
_LM_OFFLOAD = "ACESTEP_LM_OFFLOAD_TO_CPU"


@dataclass(frozen=True, slots=True)
class Decision:
    """The plan and what it was made for. `notes` are sentences for people who read the log or the stats."""

    plan: MemoryPlan
    situation: Situation
    sizes: Sizes
    notes: tuple[str, ...] = ()
    planner_elsewhere: bool = False  # on another device, of which this plan knows nothing

    @property
    def budget(self) -> Budget:
        """What there is."""
        return self.situation.budget

    @property
    def adapters(self) -> AdapterRoom | None:
        """What the adapters of a song may take up; None: as much as they like."""
        room = self.plan.adapter_room
        return None if room is None else AdapterRoom(room, self.situation.device.number)

    def limited(self, info: ModelInfo) -> ModelInfo:
        """A model with no larger limits than the plan has."""
        batch, seconds = self.plan.max_batch, self.plan.max_duration
        return replace(
            info, max_batch=min(info.max_batch, batch), max_duration=min(info.max_duration, seconds)
        )

    def admitted(self, planner: PlannerChoice) -> PlannerChoice:
        """The planner, or why it has no room."""
        if self.plan.planner or not planner.name or self.planner_elsewhere:
            return planner
        return PlannerChoice(detail=self.notes[-1])


def find_budget(settings: Settings, on_gpu: bool, probes: Probes) -> Budget:
    """What models may take up: of the GPU, or of main memory where they run there."""
    if not on_gpu:
        return Budget(probes.main_memory(), on_gpu, "main memory of this machine")
    if settings.vram_budget is not None:
        return Budget(int(settings.vram_budget * GB), on_gpu, BUDGET)
    kind, _, number = settings.device.partition(":")
    free = probes.gpu_free(int(number or 0)) if kind in ("auto", "cuda") else None
    if settings.max_cuda_vram is not None and (free is None or settings.max_cuda_vram * GB < free):
        return Budget(int(settings.max_cuda_vram * GB), on_gpu, "MAX_CUDA_VRAM")
    return Budget(free, on_gpu, "free on the GPU at the start" if free else "unknown")


def room_for_planner(settings: Settings, gpu_memory: Callable[[], float]) -> float:
    """GB of the GPU by which a planner is chosen that was not named; `gpu_memory` says what there is."""
    if settings.vram_budget is not None:
        return settings.vram_budget
    there = gpu_memory()
    return there if settings.max_cuda_vram is None else min(there, settings.max_cuda_vram)


def decide_for_server(
    settings: Settings, choices: Sequence[Choice], planner: PlannerChoice, probes: Probes
) -> Decision | None:
    """As `decide`, for what the server is about to load, and on what it is to run."""
    check_quantization(settings.quantization, (settings.device, settings.lm_device or settings.device))
    on_gpu = gpu_present(settings.device)
    elsewhere = settings.lm_device not in (None, settings.device)
    budget = find_budget(settings, on_gpu, probes)
    # Who comes because a request names it is taken to be as large as the default model.
    guests = settings.models_in_memory - len(choices) if settings.on_demand_model_load else 0
    choices = [*choices, *[choices[0]] * guests]
    # Whoever is quantized runs on PyTorch, which can let it go; vLLM cannot.
    on_vllm = settings.quantization == "none" and settings.lm_backend == "vllm" and probes.has_vllm()
    can = replace(CARRIED_OUT, offload_planner=not on_vllm)
    decision = decide(choices, PlannerChoice() if elsewhere else planner, settings, budget, can)
    if decision and elsewhere and planner.name and settings.lm_offload_to_cpu:
        note = (
            f"{_LM_OFFLOAD}=true: the planner is on {settings.lm_device} (ACESTEP_LM_DEVICE), and stays so."
        )
        decision = replace(decision, notes=(*decision.notes, note))
    return decision and replace(decision, planner_elsewhere=elsewhere)


def decide(
    choices: Sequence[Choice],
    planner: PlannerChoice,
    settings: Settings,
    budget: Budget,
    can: Abilities | None = None,
) -> Decision | None:
    """The plan for these models; None where a config does not say how large its model is.

    `can`: what can be carried out; None: all that this version can.
    Raises SettingError for a setting that cannot be kept within the budget, ModelUnavailableError where the
    models do not fit whatever is set.
    """
    can = can or CARRIED_OUT
    sizes = _sizes(choices, planner)
    if sizes is None:
        return None
    device = Device() if budget.on_gpu else Device.cpu()
    device = replace(device, quantization=settings.quantization)
    situation = Situation(budget, device, can)
    wishes, notes = _wishes(settings, planner, budget.on_gpu, can)
    if budget.size is None:
        notes.append(f"Nobody says how much memory there is, so nothing is limited: set {BUDGET}.")
        return Decision(situation.options(sizes, wishes)[0], situation, sizes, tuple(notes))
    if budget.on_gpu and (kept := adapter_weights(AdapterFolder(settings.lora_dir))):
        roomy = replace(sizes, adapters=kept)
        if choose(situation.options(roomy, wishes), budget.size):
            sizes = roomy
        else:
            notes.append(no_room(kept, situation))
    plans = situation.options(sizes, wishes)
    plan = choose(plans, budget.size)
    if plan is None and budget.on_gpu:
        raise refusal(sizes, wishes, situation)
    if plan is None:
        plan = min(plans, key=lambda each: each.peak)
        notes.append(
            f"The models take up about {gb(plan.peak)} of main memory, and there are {gb(budget.size)}: "
            "expect a slow server, or its end."
        )
    if planner.name and not plan.planner:
        notes.append(
            f"There is no room for the planner {planner.name} within {gb(budget.size)}; to have it, set "
            "ACESTEP_INIT_LLM=true, which may make the rest slower."
        )
    if budget.on_gpu:
        plan, sizes = with_adapters(plan, sizes, situation)
    return Decision(plan, situation, sizes, tuple(notes))


def limited_by(decision: Decision, choice: Choice, info: ModelInfo) -> ModelInfo:
    """A model with no larger limits than the plan has, and than there is room for when it is there alone."""
    info, size = decision.limited(info), decision.budget.size
    plans = _in_place(decision, [choice])
    plan = choose(plans, size) if decision.budget.on_gpu and size is not None else None
    return replace(decision, plan=plan).limited(info) if plan else info


def why_not_together(decision: Decision, choices: Sequence[Choice]) -> str:
    """Why these models cannot be in memory at once, placed as was decided; "" if they can.

    Of a model whose config says nothing of its size, loading says what is wrong.
    """
    budget, plans = decision.budget, _in_place(decision, choices)
    if not budget.on_gpu or budget.size is None or not plans:
        return ""
    needed = min(plan.peak for plan in plans)
    if needed <= budget.size:
        return ""
    names = ", ".join(choice.name for choice in choices)
    return f"{names}: at least {gb(needed)} are needed, and there are {budget}"


def _in_place(decision: Decision, choices: Sequence[Choice]) -> list[MemoryPlan]:
    """The plans that have these models in place of those that were decided on."""
    sizes = _sizes(choices, PlannerChoice())
    if sizes is None:
        return []
    return decision.situation.in_place_of(decision.plan, replace(decision.sizes, dits=sizes.dits))


def with_planner(decision: Decision, planner: PlannerChoice, settings: Settings) -> Decision:
    """What was decided, with this planner instead of the one that it has: models stay where they are.

    Raises InvalidFieldError where there is no room for it beside them, with the number that would do,
    CheckpointError where its config does not say how large it is.
    """
    if decision.planner_elsewhere:
        return decision
    situation, plan = decision.situation, decision.plan
    try:
        sizes = replace(decision.sizes, planners=(_planner(planner),))
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"The config of {planner.name} does not say how large it is: {error}"
        ) from error
    offload = settings.lm_offload_to_cpu if situation.can.offload_planner else None
    if settings.offload_to_cpu is False:
        offload = offload or False
    plans = situation.beside(plan, sizes, Wishes(offload_planner=offload, tile=plan.tile, planner=True))
    size = decision.budget.size
    if not decision.budget.on_gpu or size is None:
        found = plans[0]
    elif (fitting := choose(plans, size)) is not None:
        found = fitting
    else:
        needed = min(other.peak for other in plans)
        raise InvalidFieldError(
            "lm_model_path",
            planner.name,
            f"a planner that fits beside the models: with this one {gb(needed)} are needed, and there are "
            f"{decision.budget}",
            "Set ACESTEP_INIT_LLM=true and ACESTEP_LM_MODEL_PATH, and start the server again, which may then "
            "place the models otherwise",
        )
    return replace(decision, plan=replace(found, adapter_room=plan.adapter_room), sizes=sizes)


def table(decision: Decision) -> list[str]:
    """The plan, line by line, for the log."""
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
        lines[-1] += f"; the planner writes {plan.slots} texts of {plan.length} tokens"
    if plan.quantization != "none":
        lines[-1] += f"; DiT and planner in {plan.quantization}"
    return lines


def _sizes(choices: Sequence[Choice], planner: PlannerChoice) -> Sizes | None:
    """The sizes of these models; None where a config does not say, and loading what is wrong with it."""
    try:
        return _read_sizes(choices, planner)
    except (KeyError, ValueError, TypeError, CheckpointError):
        return None


def _read_sizes(choices: Sequence[Choice], planner: PlannerChoice) -> Sizes:
    found = [_on_disk(choice.checkpoint) if choice.checkpoint else _published(choice) for choice in choices]
    return Sizes(
        dits=tuple(dit for dit, _, _ in found),
        text=max((text for _, text, _ in found), key=lambda text: text.trunk),
        vae=next((vae for _, _, vae in found if vae), None),
        planners=(_planner(planner),) if planner.name else (),
    )


def _published(choice: Choice) -> tuple[DitSize, QwenSize, VaeSize | None]:
    return published_dit(choice.name, choice.is_turbo), TEXT_ENCODER, VAE


def _on_disk(checkpoint: Checkpoint) -> tuple[DitSize, QwenSize, VaeSize | None]:
    config = read_json(checkpoint.dit / "config.json") if checkpoint.layout == "published" else None
    dit = DitSize.of(checkpoint.name, config or _merged(checkpoint.dit), checkpoint.is_turbo)
    text = QwenSize.of("text encoder", read_json(checkpoint.text_encoder / "config.json"))
    vae = read_json(checkpoint.vae / "config.json")
    return dit, text, VaeSize.of(vae) if vae.get("_class_name") == "AutoencoderOobleck" else None


def _merged(folder: Path) -> dict[str, Any]:
    """The configs of a diffusers folder as a published folder has them in one."""
    transformer, encoder, tokenizer = (
        read_json(folder / part / "config.json")
        for part in ("transformer", "condition_encoder", "audio_tokenizer")
    )
    sizes = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
    return tokenizer | encoder | transformer | {f"encoder_{size}": encoder[size] for size in sizes}


def _planner(choice: PlannerChoice) -> QwenSize:
    if choice.folder is not None:
        return QwenSize.of(choice.name, read_json(choice.folder / "config.json"))
    return next(planner for planner in PLANNERS if planner.name == choice.name)


def _wishes(
    settings: Settings, planner: PlannerChoice, on_gpu: bool, can: Abilities
) -> tuple[Wishes, list[str]]:
    """What the settings ask of the plan, and a sentence for each that this version cannot do."""
    notes: list[str] = []

    def granted(field: str, wish: bool | None, able: bool) -> bool | None:
        if not on_gpu or wish is not True or able:
            return wish if on_gpu else None
        notes.append(f"{field}=true: this version cannot do that; it keeps those models on the GPU.")
        return None

    offload = granted("ACESTEP_OFFLOAD_TO_CPU", settings.offload_to_cpu, can.offload)
    # False is the default and means no more than "need not".
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
