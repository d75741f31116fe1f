"""Renders songs: plans in, latents out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from acestep.domain.latents import SourceLatents
from acestep.domain.song import Sampling, SongPlan
from acestep.networks.transformer import Condition, Heads
from acestep.synthesizer.alignment import LyricAligner, LyricAttention, known_heads
from acestep.synthesizer.conditioning import NO_SOURCES, AudioCodes, Conditioner, SongInputs
from acestep.synthesizer.loading import SynthesizerModules
from acestep.synthesizer.sampler import (
    AdaptiveProjectedGuidance,
    Cancelled,
    Guidance,
    Morphing,
    OnStep,
    SeededNoise,
    Step,
    Velocity,
    angle_domain_guidance,
    classifier_free_guidance,
    corrected_step,
    euler_step,
    guided_velocity,
    heun_step,
    inpainting_step,
    limited_velocity,
    sample,
    sde_step,
    smoothed_velocity,
    timestep_schedule,
    truncate_schedule,
    with_retakes,
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
        velocity = self._velocity(plans, inputs, sampling, schedule)
        channels = self._modules.config.latent_channels
        noise = SeededNoise([plan.seed for plan in plans], frames, channels, self.device)
        first = with_retakes(noise.draw(), [plan.retake for plan in plans])
        step = _step(sampling, velocity, noise)
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
            source = self._velocity(words, inputs, sampling, schedule)
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
        condition = self._conditioner.encode([plan], [inputs])
        return self._aligner.attend(
            plan, latents, condition, self._modules.config.patch_size / self._frame_rate
        )

    def _common(self, plans: Sequence[SongPlan]) -> tuple[int, Sampling]:
        shared = {(self.frames(plan.duration), plan.sampling) for plan in plans}
        if len(shared) != 1:
            raise ValueError("the plans of one render must share their length and their sampling")
        return shared.pop()

    def _sources(self, sources: Sequence[SourceLatents], like: Tensor) -> Tensor:
        fitted = [self._conditioner.fit_length(each.source, like.shape[1]) for each in sources]
        return torch.stack(fitted).to(like.dtype)

    def _velocity(
        self,
        plans: Sequence[SongPlan],
        inputs: Sequence[SongInputs],
        sampling: Sampling,
        schedule: Sequence[float],
    ) -> Velocity:
        velocity = self._covering_velocity(plans, inputs, sampling, schedule)
        if sampling.tuning.velocity_limit:
            velocity = limited_velocity(velocity, sampling.tuning.velocity_limit)
        if sampling.tuning.smoothing:
            velocity = smoothed_velocity(velocity, sampling.tuning.smoothing)
        return velocity

    def _covering_velocity(
        self,
        plans: Sequence[SongPlan],
        inputs: Sequence[SongInputs],
        sampling: Sampling,
        schedule: Sequence[float],
    ) -> Velocity:
        # After `cover_strength` of the steps, songs go on without their sources.
        guidance = _guidance(sampling)
        covered = self._guided(self._conditioner.encode(plans, inputs), sampling, guidance)
        if sampling.cover_strength >= 1.0:
            return covered
        last = schedule[int((len(schedule) - 1) * sampling.cover_strength)]
        plain = self._guided(self._conditioner.encode_without_source(plans, inputs), sampling, guidance)
        return lambda latents, t: covered(latents, t) if t > last else plain(latents, t)

    def _guided(self, condition: Condition, sampling: Sampling, guidance: Guidance | None) -> Velocity:
        transformer, layers = self._modules.transformer, self._modules.dit_layers
        if guidance is None:
            return partial(transformer.velocity, cache=transformer.cache(condition, layers))
        cache = transformer.cache(self._conditioner.with_null(condition), layers)
        return guided_velocity(transformer, cache, guidance, sampling.cfg_interval)


def _guidance(sampling: Sampling) -> Guidance | None:
    if sampling.guidance_scale <= 1.0:
        return None
    scale, tuning = sampling.guidance_scale, sampling.tuning
    if tuning.guidance == "apg_classic":
        return AdaptiveProjectedGuidance(scale, tuning)
    if tuning.guidance == "cfg":
        return classifier_free_guidance(scale)
    return angle_domain_guidance(scale, tuning)


def _step(sampling: Sampling, velocity: Velocity, noise: SeededNoise) -> Step:
    tuning = sampling.tuning
    if sampling.infer_method == "sde":
        step = sde_step(noise)
    else:
        step = heun_step(velocity) if tuning.integrator == "heun" else euler_step
    return corrected_step(step, tuning.correction) if tuning.correction else step
