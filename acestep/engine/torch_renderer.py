"""A loaded model that computes with PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from acestep.audio.decode import read
from acestep.audio.encode import limit_peak, normalise_peak
from acestep.codec.codec import Codec
from acestep.domain.analysis import LyricTimes
from acestep.domain.latents import SongLatents, SourceLatents
from acestep.domain.song import MAX_DURATION, AudioClip, SongPlan
from acestep.engine.renderer import Cancelled, OnFraction, OnStep
from acestep.errors import JobCancelledError
from acestep.synthesizer.alignment import time_lyrics
from acestep.synthesizer.lora import TransformerAdapters
from acestep.synthesizer.synthesizer import Synthesizer
from acestep.synthesizer.windows import Span, join, keep_around
from acestep.weights.offload import ModulePlacement

_SEAM = 0.01  # seconds that a window fades at least: a codec's sound does not continue the source's waves


@dataclass(frozen=True, slots=True)
class TorchRenderer:
    synthesizer: Synthesizer
    codec: Codec
    adapters: TransformerAdapters
    placement: ModulePlacement | None = None  # None: every module is on the device

    @property
    def sample_rate(self) -> int:
        return self.codec.sample_rate

    @property
    def reference_seconds(self) -> float:
        return self.synthesizer.reference_frames * self.codec.hop_length / self.codec.sample_rate

    @property
    def takes_batches(self) -> bool:
        # A CPU saves next to nothing by them, and its products round by their number of rows (0010).
        return self.synthesizer.device.type != "cpu"

    def encode(self, clip: AudioClip) -> torch.Tensor:
        audio = torch.from_numpy(clip.samples)[None]
        audio = torch.nn.functional.pad(audio, (0, -audio.shape[-1] % self.codec.hop_length))
        with self._device(), torch.inference_mode():
            self._enter_codec()
            return self.codec.encode(audio)[0]

    def render(
        self,
        plans: Sequence[SongPlan],
        on_step: OnStep,
        cancelled: Cancelled,
        sources: Sequence[SourceLatents] = (),
    ) -> Sequence[SongLatents]:
        sources = sources or [SourceLatents()] * len(plans)
        with self._device(partial(_stop, cancelled)):
            self._adapt(plans)
            rendered = self.synthesizer.render(plans, on_step, cancelled, sources)
        return [
            replace(self._kept(plan, rendered.latents[n : n + 1], each), warnings=rendered.warnings[n])
            for n, (plan, each) in enumerate(zip(plans, sources, strict=True))
        ]

    def _device(self, check: Callable[[], None] = lambda: None) -> AbstractContextManager[None]:
        # The device, exclusively where weights are offloaded; `check` runs while it waits, and may raise.
        return self.placement.locked(check) if self.placement else nullcontext()

    def _enter_codec(self) -> None:
        if self.placement:
            self.placement.enter("VAE")

    def _adapt(self, plans: Sequence[SongPlan]) -> None:
        # Activate the adapters of these plans, and no others. The transformer runs only after this.
        wanted = {plan.adapters for plan in plans}
        if len(wanted) != 1:
            raise ValueError("the plans of one render must share their adapters")
        adapters = wanted.pop()
        if adapters or not self.adapters.is_idle:
            self.adapters.apply(adapters)

    def _kept(self, plan: SongPlan, latents: torch.Tensor, sources: SourceLatents) -> SongLatents:
        # The song; outside of its plan's window, if it has one, it keeps its source.
        span, frames = self.synthesizer.span(plan), latents.shape[1]
        if span is None or sources.source is None:
            return SongLatents(latents, peak_db=plan.peak_db)
        kept = sources.source[None, :frames].to(latents)
        kept = torch.nn.functional.pad(kept, (0, 0, 0, frames - kept.shape[1]))
        return SongLatents(
            join(latents, kept, span, dim=1), window=plan.window, kept=sources.clip, peak_db=plan.peak_db
        )

    def decode(self, song: SongLatents, seconds: float, on_fraction: OnFraction) -> AudioClip:
        rate, window = self.codec.sample_rate, song.window
        length = round(seconds * rate)
        with self._device(partial(on_fraction, 0.0)), torch.inference_mode():
            self._enter_codec()
            sound = self.codec.decode(song.latents, on_fraction)[0, :, :length].float().cpu()
        clip = AudioClip(sound.numpy(), rate)
        if window is None or song.kept is None:
            return normalise_peak(clip, song.peak_db)
        span = Span.of(window, rate, length, max(window.crossfade_seconds, _SEAM) * rate)
        if (span.start, span.stop) == (0, length):
            return normalise_peak(clip, song.peak_db)
        # The codec would change the source, so that is joined as sound: in place, since songs take
        # 230 MB. Both sides stay within full scale.
        part = slice(span.start, span.stop)
        clip.samples[:, part] = limit_peak(AudioClip(clip.samples[:, part], rate)).samples
        keep_around(torch.from_numpy(clip.samples), torch.from_numpy(song.kept.samples), span)
        return clip

    def align_lyrics(
        self, plan: SongPlan, song: SongLatents, sources: SourceLatents
    ) -> Callable[[], LyricTimes]:
        with self._device():
            self._adapt([plan])
            return partial(time_lyrics, self.synthesizer.attend_lyrics(plan, song.latents, sources))

    def tokenize(self, path: Path) -> tuple[int, ...]:
        clip = read(path, self.codec.sample_rate, MAX_DURATION)
        latents = self.encode(clip)
        with self._device(), torch.inference_mode():
            return self.synthesizer.tokenize(latents)

    def low_memory(self) -> TorchRenderer:
        return replace(self, codec=self.codec.low_memory())


def _stop(cancelled: Cancelled) -> None:
    if cancelled():
        raise JobCancelledError("The job was cancelled before its render began.")
