"""The inputs of the DiT: encoded text, reference, and source latents or audio codes.

The texts are exactly those that the published weights were trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from acestep.domain.latents import SourceLatents
from acestep.domain.song import INSTRUMENTAL, TEXT2MUSIC_INSTRUCTION, SongPlan
from acestep.networks.qwen3 import encode
from acestep.networks.transformer import Condition, ConditionCache
from acestep.synthesizer.audio_codes import AudioCodes
from acestep.synthesizer.loading import SynthesizerModules
from acestep.synthesizer.windows import Span

# What the published models were trained with, in tokens.
MAX_CAPTION_TOKENS = 256
MAX_LYRIC_TOKENS = 2048

NO_SOURCES = SourceLatents()

_END = "<|endoftext|>"
_UNKNOWN = "N/A"


@dataclass(frozen=True, slots=True, eq=False)
class SongInputs:
    source: Tensor  # [T, C], T latent frames of C channels
    chunk_mask: Tensor  # [T], 1 where the model writes, 0 where the source stays
    reference: Tensor | None  # [F, C], gives the timbre; None: that of silence


class Conditioner:
    """Encodes plans with the loaded text and condition encoders."""

    def __init__(self, modules: SynthesizerModules) -> None:
        self._modules = modules
        self._codes = AudioCodes(modules)
        self._device = modules.silence_latent.device
        self._silent_timbre: Tensor | None = None  # of the model, once it was needed

    def inputs(
        self, plan: SongPlan, frames: int, sources: SourceLatents = NO_SOURCES, span: Span | None = None
    ) -> SongInputs:
        """The inputs of a song of `frames`; `span` is generated (None: all of it)."""
        mask = torch.ones(frames, dtype=torch.float32) if span is None else span.mask(frames)
        mask = mask.to(self._device)
        reference, length = sources.reference, self._modules.config.reference_frames
        return SongInputs(
            source=self._source(plan, frames, sources, mask),
            chunk_mask=mask,
            reference=None if reference is None else self.fit_length(reference, length),
        )

    def _source(self, plan: SongPlan, frames: int, sources: SourceLatents, mask: Tensor) -> Tensor:
        if plan.audio_codes:
            return self.fit_length(self._codes.hints(plan.audio_codes), frames)
        if sources.source is None or plan.task_type == "text2music":
            return self.silence(frames)
        if plan.task_type == "cover":
            source = sources.source[:frames]
            if plan.follows_latents:
                return self.fit_length(source, frames)
            hints = self._codes.hints(self._codes.tokenize(source))
            return self.fit_length(hints[: len(source)], frames)
        source = self.fit_length(sources.source, frames)
        # Repaint must not see what it replaces; the other tasks add to their source, and see all of it.
        if plan.task_type == "repaint":
            return torch.where(mask[:, None] == 1, self.silence(frames), source)
        return source

    def fit_length(self, latents: Tensor | None, frames: int) -> Tensor:
        """Latents cut to `frames` or padded with silence, `[frames, C]`; None is silence throughout."""
        if latents is None:
            return self.silence(frames)
        kept = latents[:frames].to(self._modules.silence_latent)
        return torch.cat([kept, self.silence(frames - len(kept))])

    def silence(self, frames: int) -> Tensor:
        """Latents of silence `[frames, C]`; repeated where the checkpoint holds less."""
        stored = self._modules.silence_latent[0]
        repeats = -(-frames // stored.shape[0])
        return stored.repeat(repeats, 1)[:frames] if repeats > 1 else stored[:frames]

    def encode(self, plans: Sequence[SongPlan], inputs: Sequence[SongInputs]) -> Condition:
        """The condition of all songs; `inputs` has one entry a plan, all of the same length."""
        # One by one, so that what a song's neighbours say changes no bit of it.
        text_encoder = self._modules.text_encoder
        self._enter("text encoder")
        texts = [
            (
                text_encoder(self._ids(caption_prompt(plan), MAX_CAPTION_TOKENS)),
                text_encoder.embed_tokens(self._ids(lyric_prompt(plan), MAX_LYRIC_TOKENS)),
            )
            for plan in plans
        ]
        self._enter("condition encoder")
        states = [
            self._modules.condition_encoder(caption, lyrics, self._timbre(each.reference))[0]
            for (caption, lyrics), each in zip(texts, inputs, strict=True)
        ]
        lengths = torch.tensor([len(each) for each in states], device=self._device)
        mask = torch.arange(int(lengths.max()), device=self._device) < lengths[:, None]
        return Condition(nn.utils.rnn.pad_sequence(states, batch_first=True), mask, self._context(inputs))

    def _timbre(self, reference: Tensor | None) -> Tensor:
        encoder = self._modules.condition_encoder
        if reference is not None:
            return encoder.timbre(reference[None])
        if self._silent_timbre is None:
            self._silent_timbre = encoder.timbre(self.silence(self._modules.config.reference_frames)[None])
        return self._silent_timbre

    def encode_without_source(self, plans: Sequence[SongPlan], inputs: Sequence[SongInputs]) -> Condition:
        """As `encode`, with the instruction of text2music, and silence for a source."""
        return self.encode(
            [replace(plan, instruction=TEXT2MUSIC_INSTRUCTION) for plan in plans],
            [replace(each, source=self.silence(len(each.source))) for each in inputs],
        )

    def cache(self, condition: Condition) -> ConditionCache:
        """What the DiT computes of a condition once."""
        placement = self._modules.placement
        layers = None if placement is None else partial(placement.layers, "DiT")
        return self._modules.transformer.cache(condition, layers)

    def with_null(self, condition: Condition) -> Condition:
        """The same for guidance, which needs the model's null condition too."""
        self._enter("condition encoder")
        # A copy, since weights may be offloaded before it is used.
        return replace(condition, null=self._modules.condition_encoder.null_condition_emb.clone())

    def _enter(self, group: str) -> None:
        # Before the modules of a group compute, they are brought to the device.
        if self._modules.placement is not None:
            self._modules.placement.enter(group)

    def warnings(self, plan: SongPlan) -> tuple[str, ...]:
        """Sentences for the client about text that is longer than what the model reads."""
        checked = (
            ("caption", "with its metadata", caption_prompt(plan), MAX_CAPTION_TOKENS),
            ("lyrics", "with their header", lyric_prompt(plan), MAX_LYRIC_TOKENS),
        )
        lengths = [len(self._modules.tokenizer.encode(text)) for _, _, text, _ in checked]
        return tuple(
            f"{field}: {length} tokens {extra}, but the model reads {limit}; the end was left out"
            for (field, extra, _, limit), length in zip(checked, lengths, strict=True)
            if length > limit
        )

    def _ids(self, text: str, limit: int) -> Tensor:
        ids, _, _ = encode(self._modules.tokenizer, text, limit)
        return torch.tensor([ids], device=self._device)

    def _context(self, inputs: Sequence[SongInputs]) -> Tensor:
        source = torch.stack([each.source for each in inputs])
        mask = torch.stack([each.chunk_mask for each in inputs]).to(source.dtype)
        mask_channels = self._modules.config.mask_channels
        return torch.cat([source, mask[..., None].expand(-1, -1, mask_channels)], dim=-1)


def caption_prompt(plan: SongPlan) -> str:
    """The text of the caption branch, which the whole text encoder reads."""
    instruction = plan.instruction if plan.instruction.endswith(":") else f"{plan.instruction}:"
    return f"# Instruction\n{instruction}\n\n# Caption\n{plan.caption}\n\n# Metas\n{metas(plan)}{_END}\n"


def lyric_prompt(plan: SongPlan) -> str:
    """The text of the lyric branch, of which only the token embeddings are used."""
    lyrics = plan.lyrics if plan.lyrics.strip() else INSTRUMENTAL
    return f"{lyric_header(plan)}{lyrics}{_END}"


def lyric_header(plan: SongPlan) -> str:
    """The part of `lyric_prompt` before the lyrics."""
    return f"# Languages\n{plan.language}\n\n# Lyric\n"


def metas(plan: SongPlan) -> str:
    """Four lines of metadata; unknown values are N/A, and the duration is cut to whole seconds."""
    return (
        f"- bpm: {plan.bpm if plan.bpm is not None else _UNKNOWN}\n"
        f"- timesignature: {plan.time_signature or _UNKNOWN}\n"
        f"- keyscale: {plan.key_scale or _UNKNOWN}\n"
        f"- duration: {int(plan.duration)} seconds\n"
    )
