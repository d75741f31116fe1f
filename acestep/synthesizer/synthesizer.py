"""Renders songs: plans in, latents out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from acestep.domain.latents import SourceLatents
from acestep.domain.song import Sampling, SongPlan
from acestep.synthesizer.alignment import LyricAligner, LyricAttention, known_heads
from acestep.synthesizer.codes import AudioCodes
from acestep.synthesizer.conditioning import NO_SOURCES, Condition, Conditioner, SongMaterial
from acestep.synthesizer.guidance import (
    AdaptiveProjectedGuidance,
    AngleDomainGuidance,
    Guidance,
    GuidedVelocity,
)
from acestep.synthesizer.loading import SynthesizerModules
from acestep.synthesizer.sampler import (
    Cancelled,
    Noise,
    OnStep,
    Step,
    Velocity,
    euler,
    held,
    heun,
    renoising,
    sample,
    smoothed,
)
from acestep.synthesizer.schedule import begun, times
from acestep.synthesizer.transformer import Heads, Transformer
from acestep.synthesizer.windows import Span


@dataclass(frozen=True, slots=True, eq=False)
class RenderedBatch:
    """Latents `[B, T, C]` in float32, and for each song what the client must hear."""

    latents: Tensor
    warnings: tuple[tuple[str, ...], ...]


class Synthesizer:
    """Text encoder, condition encoder and diffusion transformer of one checkpoint."""

    def __init__(
        self, modules: SynthesizerModules, frame_rate: float, alignment_heads: Heads | None = None
    ) -> None:
        """`frame_rate` is the codec's: latent frames a second, its sample rate by its hop length.

        `alignment_heads` follow the singing; None: those of the published models, if this is one of them.
        """
        self._facts = modules.facts
        self._frame_rate = frame_rate
        self._conditioner = Conditioner(modules)
        self._codes = AudioCodes(modules)
        self._transformer = Transformer(modules.transformer, modules.placement)
        heads = alignment_heads or known_heads(modules.transformer.config)
        self._aligner = LyricAligner(modules, self._transformer, heads)
        self._device = modules.silence_latent.device

    def frames(self, duration: float) -> int:
        """Latent frames that cover `duration` seconds; the last one may reach past the end."""
        return math.ceil(duration * self._frame_rate - 1e-6)  # 64.4 s at 25 Hz are 1610.0000000000002

    @torch.inference_mode()
    def render(
        self,
        plans: Sequence[SongPlan],
        on_step: OnStep,
        cancelled: Cancelled,
        sources: Sequence[SourceLatents] = (),
    ) -> RenderedBatch:
        """Render all plans as one batch; they must agree in their number of frames and their sampling.

        `sounds` has one entry a plan, or none at all. Each song comes out as it would alone. `on_step` hears
        (steps done, steps in all). Raises InvalidFieldError for sampling that this model cannot do,
        JobCancelledError soon after `cancelled()`.
        """
        frames, sampling = self._common(plans)
        schedule = begun(times(sampling, self._facts.is_turbo), sampling.noise_strength)
        sources = sources or [NO_SOURCES] * len(plans)
        materials = [
            self._conditioner.material(plan, frames, source_latents, self.span(plan))
            for plan, source_latents in zip(plans, sources, strict=True)
        ]
        velocity = self._velocity(plans, materials, sampling, schedule)
        if sampling.tuning.smoothing:
            velocity = smoothed(velocity, sampling.tuning.smoothing)
        noise = Noise([plan.seed for plan in plans], frames, self._facts.latent_channels, self._device)
        first = noise.draw()
        step = _stepping(sampling, velocity, noise)
        if sampling.injection:
            step = self._held(step, materials, sources, first, _time_after(schedule, sampling.injection))
        start = self._start(first, sources, schedule[0]) if sampling.noise_strength else first
        latents = sample(velocity, step, start, schedule, on_step, cancelled)
        latents = latents * sampling.tuning.latent_scale + sampling.tuning.latent_shift
        return RenderedBatch(latents, tuple(self._conditioner.warnings(plan) for plan in plans))

    def span(self, plan: SongPlan) -> Span | None:
        """The frames that a plan's window writes; None: all."""
        window = plan.window
        if window is None:
            return None
        return Span.of(window, self._frame_rate, self.frames(plan.duration), window.crossfade_frames)

    @property
    def reference_frames(self) -> int:
        """How long a reference it hears, in latent frames."""
        return self._facts.reference_frames

    @torch.inference_mode()
    def attend_lyrics(
        self, plan: SongPlan, latents: Tensor, sources: SourceLatents = NO_SOURCES
    ) -> LyricAttention:
        """How a song attends to its lyrics: `latents` `[1, T, C]`, as rendered from `plan` and `sounds`.

        Raises UntimedLyricsError where there are none, or where nobody knows how to read this model.
        """
        self._aligner.check(plan)
        material = self._conditioner.material(plan, latents.shape[1], sources, self.span(plan))
        condition = self._conditioner.encode([plan], [material])
        return self._aligner.attend(plan, latents, condition, self._transformer.patch / self._frame_rate)

    @property
    def code_count(self) -> int:
        """How many different audio codes the model has."""
        return self._codes.count

    def tokenize(self, latents: Tensor) -> tuple[int, ...]:
        """The audio codes of latents `[T, C]`."""
        return self._codes.tokenize(latents)

    def _common(self, plans: Sequence[SongPlan]) -> tuple[int, Sampling]:
        shared = {(self.frames(plan.duration), plan.sampling) for plan in plans}
        if len(shared) != 1:
            raise ValueError("the plans of one render must share their length and their sampling")
        return shared.pop()

    def _start(self, noise: Tensor, sources: Sequence[SourceLatents], t: float) -> Tensor:
        """Noise that already holds something of each song's source, as of time `t`."""
        return t * noise + (1.0 - t) * self._sources(sources, noise)

    def _held(
        self,
        step: Step,
        materials: Sequence[SongMaterial],
        sources: Sequence[SourceLatents],
        noise: Tensor,
        until: float,
    ) -> Step:
        """Steps that put each song's source back outside of its window."""
        free = torch.stack([material.chunk_mask for material in materials])
        return held(step, self._sources(sources, noise), free, noise, until)

    def _sources(self, sources: Sequence[SourceLatents], like: Tensor) -> Tensor:
        """Each song's source, or silence, as long as `like` `[B, T, C]`."""
        fitted = [self._conditioner.fitted(each.source, like.shape[1]) for each in sources]
        return torch.stack(fitted).to(like.dtype)

    def _velocity(
        self,
        plans: Sequence[SongPlan],
        materials: Sequence[SongMaterial],
        sampling: Sampling,
        schedule: Sequence[float],
    ) -> Velocity:
        """Where to go; after its share of the steps, without what the songs follow."""
        guidance = self._guidance(sampling)
        following = self._directed(self._conditioner.encode(plans, materials), sampling, guidance)
        if sampling.cover_strength >= 1.0:
            return following
        last = schedule[int((len(schedule) - 1) * sampling.cover_strength)]
        plain = self._directed(self._conditioner.encode_plainly(plans, materials), sampling, guidance)
        return lambda latents, t: following(latents, t) if t > last else plain(latents, t)

    def _guidance(self, sampling: Sampling) -> Guidance | None:
        # Turbo models have guidance distilled into their weights and take none on top.
        if self._facts.is_turbo or sampling.guidance_scale <= 1.0:
            return None
        if sampling.use_adg:
            return AngleDomainGuidance(sampling.guidance_scale)
        tuning = sampling.tuning
        return AdaptiveProjectedGuidance(sampling.guidance_scale, tuning.momentum, tuning.eta)

    def _directed(self, condition: Condition, sampling: Sampling, guidance: Guidance | None) -> Velocity:
        if guidance is None:
            return partial(self._transformer.velocity, attended=self._transformer.attend(condition))
        attended = self._transformer.attend(self._conditioner.with_null(condition))
        return GuidedVelocity(self._transformer, attended, guidance, sampling.cfg_interval)


def _stepping(sampling: Sampling, velocity: Velocity, noise: Noise) -> Step:
    if sampling.infer_method == "sde":
        return renoising(noise)
    return heun(velocity) if sampling.tuning.integrator == "heun" else euler


def _time_after(schedule: Sequence[float], share: float) -> float:
    """The time at which a share of the steps is done, rounded to whole steps."""
    return schedule[round((len(schedule) - 1) * share)]
