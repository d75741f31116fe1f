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

from acestep.checkpoints import Checkpoint, Choice, gpu_present, read_json
from acestep.domain import ModelInfo
from acestep.errors import CheckpointError, ModelUnavailableError, SettingError
from acestep.memory.plan import GB, Abilities, Device, MemoryPlan, Sizes, Wishes, choose, least, options
from acestep.memory.probes import Probes
from acestep.memory.sizes import PLANNERS, TEXT_ENCODER, VAE, DitSize, QwenSize, VaeSize, published_dit
from acestep.memory.stored import VARIABLE, check_quantization
from acestep.planners import PlannerChoice
from acestep.settings import Settings

CARRIED_OUT = Abilities(offload=True, stream=True)  # by `residency`; the planner stays where it is
_BUDGET = "ACESTEP_VRAM_BUDGET"


@dataclass(frozen=True, slots=True)
class Budget:
    """Bytes that there are (None: nobody knows), on what, and who says so."""

    size: int | None
    on_gpu: bool
    source: str


@dataclass(frozen=True, slots=True)
class Decision:
    """The plan and what it was made for. `notes` are sentences for people who read the log or the stats."""

    plan: MemoryPlan
    budget: Budget
    notes: tuple[str, ...] = ()
    planner_elsewhere: bool = False  # on another device, of which this plan knows nothing

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
        return Budget(int(settings.vram_budget * GB), on_gpu, _BUDGET)
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
    elsewhere = settings.lm_device not in (None, settings.device) and bool(planner.name)
    budget = find_budget(settings, on_gpu, probes)
    # Who comes because a request names it is taken to be as large as the default model.
    guests = settings.models_in_memory - len(choices) if settings.on_demand_model_load else 0
    choices = [*choices, *[choices[0]] * guests]
    decision = decide(choices, PlannerChoice() if elsewhere else planner, settings, budget)
    return decision and replace(decision, planner_elsewhere=elsewhere)


def decide(
    choices: Sequence[Choice], planner: PlannerChoice, settings: Settings, budget: Budget
) -> Decision | None:
    """The plan for these models; None where a config does not say how large its model is.

    Raises SettingError for a setting that cannot be kept within the budget, ModelUnavailableError where the
    models do not fit whatever is set.
    """
    try:
        sizes = _sizes(choices, planner)
    except (KeyError, ValueError, TypeError, CheckpointError):
        return None  # loading says what is wrong with the folder
    device = Device() if budget.on_gpu else Device.cpu()
    device = replace(device, quantization=settings.quantization)
    wishes, notes = _wishes(settings, planner, budget.on_gpu)
    plans = options(sizes, wishes, device, CARRIED_OUT)
    if budget.size is None:
        notes.append(f"Nobody says how much memory there is, so nothing is limited: set {_BUDGET}.")
        return Decision(plans[0], budget, tuple(notes))
    plan = choose(plans, budget.size)
    if plan is None and budget.on_gpu:
        raise _refusal(sizes, wishes, device, budget)
    if plan is None:
        plan = min(plans, key=lambda each: each.peak)
        notes.append(
            f"The models take up about {_gb(plan.peak)} of main memory, and there are {_gb(budget.size)}: "
            "expect a slow server, or its end."
        )
    if planner.name and not plan.planner:
        notes.append(
            f"There is no room for the planner {planner.name} within {_gb(budget.size)}; to have it, set "
            "ACESTEP_INIT_LLM=true, which may make the rest slower."
        )
    return Decision(plan, budget, tuple(notes))


def table(decision: Decision) -> list[str]:
    """The plan, line by line, for the log."""
    plan, budget = decision.plan, decision.budget
    there = "unknown" if budget.size is None else _gb(budget.size)
    lines = [f"Memory plan: {_gb(plan.peak)} at most, of {there} ({budget.source})"]
    lines += [
        f"  {part.name:<18} {part.placement:<10} {_gb(part.size):>9}  at the peak {_gb(part.held):>9}"
        for part in plan.parts
    ]
    lines.append(
        f"  peak in stage {plan.stage}; up to {plan.max_batch} songs of {plan.max_duration:g} s at once, "
        f"decoded by {plan.tile} frames"
    )
    if plan.quantization != "none":
        lines[-1] += f"; DiT and planner in {plan.quantization}"
    return lines


def _gb(size: int) -> str:
    return f"{size / GB:.2f} GB"


def _sizes(choices: Sequence[Choice], planner: PlannerChoice) -> Sizes:
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


def _wishes(settings: Settings, planner: PlannerChoice, on_gpu: bool) -> tuple[Wishes, list[str]]:
    """What the settings ask of the plan, and a sentence for each that this version cannot do."""
    notes: list[str] = []

    def granted(field: str, wish: bool | None, able: bool) -> bool | None:
        if not on_gpu or wish is not True or able:
            return wish if on_gpu else None
        notes.append(f"{field}=true: this version cannot do that; it keeps those models on the GPU.")
        return None

    offload = granted("ACESTEP_OFFLOAD_TO_CPU", settings.offload_to_cpu, CARRIED_OUT.offload)
    # False is the default and means no more than "need not".
    dit = granted("ACESTEP_OFFLOAD_DIT_TO_CPU", settings.offload_dit_to_cpu or None, CARRIED_OUT.offload)
    lm = granted("ACESTEP_LM_OFFLOAD_TO_CPU", settings.lm_offload_to_cpu, CARRIED_OUT.offload_planner)
    if offload is False:
        dit, lm = dit or False, lm or False
    must = None if planner.name and settings.init_llm is None else bool(planner.name)
    return Wishes(offload, dit, lm, settings.vae_decode_chunk_size, must), notes


def _refusal(sizes: Sizes, wishes: Wishes, device: Device, budget: Budget) -> Exception:
    """Why nothing fits: the first setting without which something would, or else the budget."""
    assert budget.size is not None
    needed = least(options(sizes, wishes, device, CARRIED_OUT))
    if smaller := _smaller_planner(sizes, wishes, device, budget.size):
        name, enough = smaller
        return SettingError(
            "ACESTEP_LM_MODEL_PATH",
            sizes.planners[0].name,
            f"{name}, which takes {_gb(enough)}; with this one at least {_gb(needed)} are needed, and there "
            f"are {_gb(budget.size)} ({budget.source})",
        )
    loosened = {
        "ACESTEP_OFFLOAD_TO_CPU": replace(wishes, offload=None, offload_dit=None, offload_planner=None),
        "ACESTEP_LM_OFFLOAD_TO_CPU": replace(wishes, offload_planner=None),
        "ACESTEP_VAE_DECODE_CHUNK_SIZE": replace(wishes, tile=None),
        "ACESTEP_INIT_LLM": replace(wishes, planner=False),
    }
    for variable, looser in loosened.items():
        plans = options(sizes, looser, device, CARRIED_OUT)
        if looser != wishes and least(plans) <= budget.size:
            value = _value(variable, wishes)
            return SettingError(
                variable,
                value,
                f"{_other(variable)}, which takes {_gb(least(plans))}; with {value} at least {_gb(needed)} "
                f"are needed, and there are {_gb(budget.size)} ({budget.source})",
            )
    if device.quantization == "none":
        enough = least(options(sizes, wishes, replace(device, quantization="int8"), CARRIED_OUT))
        if enough <= budget.size:
            return SettingError(
                VARIABLE,
                "none",
                f"int8, which takes {_gb(enough)} (songs change a little); with none at least {_gb(needed)} "
                f"are needed, and there are {_gb(budget.size)} ({budget.source})",
            )
    names = ", ".join([dit.name for dit in sizes.dits] + [planner.name for planner in sizes.planners])
    if budget.source == _BUDGET:
        return SettingError(
            _BUDGET, f"{budget.size / GB:g}", f"{-(-needed * 10 // GB) / 10:g} GB or more for {names}"
        )
    return ModelUnavailableError(
        f"{names}: at least {_gb(needed)} of GPU memory are needed, and there are {_gb(budget.size)} "
        f"({budget.source}). Set ACESTEP_DEVICE=cpu, or ACESTEP_CONFIG_PATH to a smaller model."
    )


def _smaller_planner(sizes: Sizes, wishes: Wishes, device: Device, budget: int) -> tuple[str, int] | None:
    """The largest published planner that would fit in place of the one that does not, and its bytes."""
    for planner in reversed(PLANNERS):
        if wishes.planner and planner.weights < sizes.planners[0].weights:
            enough = least(options(replace(sizes, planners=(planner,)), wishes, device, CARRIED_OUT))
            if enough <= budget:
                return planner.name, enough
    return None


def _value(variable: str, wishes: Wishes) -> str:
    if variable == "ACESTEP_VAE_DECODE_CHUNK_SIZE":
        return str(wishes.tile)
    return "true" if variable == "ACESTEP_INIT_LLM" else "false"


def _other(variable: str) -> str:
    return "false" if variable == "ACESTEP_INIT_LLM" else "auto"
