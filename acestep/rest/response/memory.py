from __future__ import annotations

from acestep.memory.decide import Decision
from acestep.rest.response.schemas import MemoryPart, MemoryState


def memory_of(decision: Decision | None) -> MemoryState | None:
    if decision is None:
        return None
    plan, budget = decision.plan, decision.budget
    return MemoryState(
        device="gpu" if budget.on_gpu else "cpu",
        budget_bytes=budget.size,
        budget_source=budget.source,
        peak_bytes=plan.peak,
        peak_stage=plan.stage,
        parts=[
            MemoryPart(name=part.name, placement=part.placement, bytes=part.size, bytes_at_peak=part.held)
            for part in plan.parts
        ],
        quantization=plan.quantization,
        max_batch_size=plan.max_batch,
        max_audio_duration=plan.max_duration,
        vae_decode_chunk_size=plan.tile,
        lm_model=plan.planner,
        lm_texts_at_once=plan.sequences,
        lm_tokens=plan.length,
        notes=list(decision.notes),
    )
