"""Renders songs: plans in, latents out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from acestep.domain.latents import SourceLatents
from acestep.domain.song import Sampling, SongPlan, Tuning
from acestep.networks.transformer import Condition, Heads
from acestep.synthesizer.alignment import LyricAligner, LyricAttention, known_heads
from acestep.synthesizer.audio_codes import AudioCodes
from acestep.synthesizer.conditioning import NO_SOURCES, Conditioner, SongInputs
from acestep.synthesizer.loading import SynthesizerModules
from acestep.synthesizer.sampler import (
    AdaptiveProjectedGuidance,
    Cancelled,
    Guidance,
    OnStep,
    SeededNoise,
    Step,
    Velocity,
    angle_domain_guidance,
    classifier_free_guidance,
    euler_step,
    guided_velocity,
    sample,
    timestep_schedule,
    truncate_schedule,
    with_retakes,
)
from acestep.synthesizer.sampler_options import (
    Morphing,
    SmoothedVelocity,
    corrected_step,
    heun_step,
    inpainting_step,
    limited_velocity,
    sde_step,
)
from acestep.synthesizer.windows import Span


@dataclass(frozen=True, slots=True, eq=False)
class RenderedBatch:
    latents: Tensor  # [B, T, C], float32
    warnings: tuple[tuple[str, ...], ...]  # sentences for the client, by song


class Synthesizer:
    """Text encoder, condition encoder and DiT of one checkpoint."""

    def __init__(
        self, modules: SynthesizerModules, frame_rate: float, alignment_heads: Heads | None = None
    ) -> None:
        self._modules = modules
        self._frame_rate = frame_rate  # latent frames a second, by the codec
        self._conditioner = Conditioner(modules)
        self._codes = AudioCodes(modules)
        heads = alignment_heads or known_heads(modules.config)
        self._aligner = LyricAligner(modules, heads)
        self.device = modules.silence_latent.device

    @property
    def reference_frames(self) -> int:
        return self._modules.config.reference_frames

    @property
    def code_count(self) -> int:
        return self._codes.count

    def frames(self, duration: float) -> int:
        """Latent frames that cover `duration` seconds."""
        return math.ceil(duration * self._frame_rate - 1e-6)  # 64.4 s at 25 Hz are 1610.0000000000002

    def span(self, plan: SongPlan) -> Span | None:
        """The frames that a plan's window generates; None: all."""
        window = plan.window
        if window is None:
            return None
        return Span.of(window, self._frame_rate, self.frames(plan.duration), window.crossfade_frames)

    def tokenize(self, latents: Tensor) -> tuple[int, ...]:
        return self._codes.tokenize(latents)

    @torch.inference_mode()
    def render(
        self,
        plans: Sequence[SongPlan],
        on_step: OnStep,
        cancelled: Cancelled,
        sources: Sequence[SourceLatents] = (),
    ) -> RenderedBatch:
        """Render plans of the same length and sampling as one batch; but for rounding, each song is as alone.

        `sources` has one entry a plan, or none. Raises JobCancelledError soon after `cancelled()` is true.
        """
        frames, sampling = self._common(plans)
        schedule = timestep_schedule(sampling, is_turbo=self._modules.config.is_turbo)
        schedule = truncate_schedule(schedule, sampling.noise_strength)
        sources = sources or [NO_SOURCES] * len(plans)
        inputs = [
            self._conditioner.inputs(plan, frames, each, self.span(plan))
            for plan, each in zip(plans, sources, strict=True)
        ]
        velocities = self._velocities(plans, inputs, sampling, schedule)
        velocity = velocities.first
        channels = self._modules.config.latent_channels
        noise = SeededNoise([plan.seed for plan in plans], frames, channels, self.device)
        first = with_retakes(noise.draw(), [plan.retake for plan in plans])
        step = step_of(sampling, velocities, noise)
        if sampling.injection:
            until = schedule[round((len(schedule) - 1) * sampling.injection)]
            mask = torch.stack([each.chunk_mask for each in inputs])
            step = inpainting_step(step, self._sources(sources, first), mask, first, until)
        start = first
        if sampling.noise_strength:
            start = schedule[0] * first + (1.0 - schedule[0]) * self._sources(sources, first)
        if sampling.morph is None:
            latents = sample(velocity, step, start, schedule, on_step, cancelled)
        else:
            words = [replace(plan, caption=plan.source_caption, lyrics=plan.source_lyrics) for plan in plans]
            source = self._velocities(words, inputs, sampling, schedule).first
            morph = Morphing(velocity, source, self._sources(sources, first), noise, sampling.morph)
            latents = morph.sample(schedule, on_step, cancelled)
        latents = latents * sampling.tuning.latent_scale + sampling.tuning.latent_shift
        return RenderedBatch(latents, tuple(self._conditioner.warnings(plan) for plan in plans))

    @torch.inference_mode()
    def attend_lyrics(
        self, plan: SongPlan, latents: Tensor, sources: SourceLatents = NO_SOURCES
    ) -> LyricAttention:
        """Attend to the lyrics with `latents` `[1, T, C]`, rendered from `plan` and `sources`.

        Raises UntimedLyricsError where no lyrics are sung, or the model's alignment heads are not known.
        """
        self._aligner.check(plan)
        inputs = self._conditioner.inputs(plan, latents.shape[1], sources, self.span(plan))
        cache = self._conditioner.cache(self._conditioner.encode([plan], [inputs]))
        patch_seconds = self._modules.config.patch_size / self._frame_rate
        return self._aligner.attend(plan, latents, cache, patch_seconds)

    def _common(self, plans: Sequence[SongPlan]) -> tuple[int, Sampling]:
        shared = {(self.frames(plan.duration), plan.sampling) for plan in plans}
        if len(shared) != 1:
            raise ValueError("the plans of one render must share their length and their sampling")
        return shared.pop()

    def _sources(self, sources: Sequence[SourceLatents], like: Tensor) -> Tensor:
        fitted = [self._conditioner.fit_length(each.source, like.shape[1]) for each in sources]
        return torch.stack(fitted).to(like.dtype)

    def _velocities(
        self,
        plans: Sequence[SongPlan],
        inputs: Sequence[SongInputs],
        sampling: Sampling,
        schedule: Sequence[float],
    ) -> StepVelocities:
        # After `cover_strength` of the steps, songs go on without their sources.
        covered = self._guided(self._conditioner.encode(plans, inputs), sampling)
        if sampling.cover_strength >= 1.0:
            return tuned(covered, sampling.tuning)
        last = schedule[int((len(schedule) - 1) * sampling.cover_strength)]
        plain = self._guided(self._conditioner.encode_without_source(plans, inputs), sampling)

        def first(latents: Tensor, t: float) -> Tensor:
            return covered.first(latents, t) if t > last else plain.first(latents, t)

        def second(latents: Tensor, t: float) -> Tensor:  # of a step that began before
            return covered.second(latents, t) if t >= last else plain.second(latents, t)

        return tuned(StepVelocities(first, second), sampling.tuning)

    def _guided(self, condition: Condition, sampling: Sampling) -> StepVelocities:
        transformer = self._modules.transformer
        first, second = guidances(sampling)
        if first is None or second is None:
            plain = partial(transformer.velocity, cache=self._conditioner.cache(condition))
            return StepVelocities(plain, plain)
        cache = self._conditioner.cache(self._conditioner.with_null(condition))
        guided = partial(guided_velocity, transformer, cache, interval=sampling.cfg_interval)
        return StepVelocities(guided(first), guided(second))


@dataclass(frozen=True, slots=True)
class StepVelocities:
    # Where a step begins, and where it leads (heun).
    first: Velocity
    second: Velocity


def tuned(velocities: StepVelocities, tuning: Tuning) -> StepVelocities:
    first, second = velocities.first, velocities.second
    if limit := tuning.velocity_limit:
        first, second = limited_velocity(first, limit), limited_velocity(second, limit)
    return StepVelocities(SmoothedVelocity(first, tuning.smoothing) if tuning.smoothing else first, second)


def guidances(sampling: Sampling) -> tuple[Guidance, Guidance] | tuple[None, None]:
    # Of both velocities of a step.
    if sampling.guidance_scale <= 1.0:
        return None, None
    scale, tuning = sampling.guidance_scale, sampling.tuning
    if tuning.guidance == "apg_classic":
        # As in the original, whose running average counts each step once.
        return AdaptiveProjectedGuidance(scale, tuning), classifier_free_guidance(scale)
    if tuning.guidance == "cfg":
        guidance = classifier_free_guidance(scale)
    else:
        guidance = angle_domain_guidance(scale, tuning)
    return guidance, guidance


def step_of(sampling: Sampling, velocities: StepVelocities, noise: SeededNoise) -> Step:
    tuning, first = sampling.tuning, velocities.first
    if sampling.infer_method == "sde":
        step = sde_step(noise)
    elif tuning.integrator == "heun":
        step = heun_step(velocities.second, first if isinstance(first, SmoothedVelocity) else None)
    else:
        step = euler_step
    return corrected_step(step, tuning.correction) if tuning.correction else step
