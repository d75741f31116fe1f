"""The inputs of the DiT: encoded text, reference, and source latents or audio codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from acestep.domain.latents import SourceLatents
from acestep.domain.song import SongPlan
from acestep.networks.qwen3 import encode
from acestep.synthesizer.loading import SynthesizerModules
from acestep.synthesizer.prompts import TEXT2MUSIC_INSTRUCTION, caption_prompt, lyric_prompt
from acestep.synthesizer.transformer import Condition
from acestep.synthesizer.windows import Span

# What the published models were trained with, in tokens.
MAX_CAPTION_TOKENS = 256
MAX_LYRIC_TOKENS = 2048

NO_SOURCES = SourceLatents()


@dataclass(frozen=True, slots=True, eq=False)
class SongInputs:
    source: Tensor  # [T, C], T latent frames of C channels
    chunk_mask: Tensor  # [T], 1 where the model writes, 0 where the source stays
    reference: Tensor  # [F, C], gives the timbre


@dataclass(frozen=True, slots=True, eq=False)
class _Tokens:
    ids: Tensor  # [B, L], padded with 0
    mask: Tensor  # [B, L], 1 for a token
    lengths: tuple[int, ...]  # tokens of each text before it was cut


class AudioCodes:
    """The audio tokenizer of one checkpoint, five codes a second in the published ones."""

    def __init__(self, modules: SynthesizerModules) -> None:
        self._modules = modules
        self._silence = modules.silence_latent
        self.count = modules.config.code_count

    @torch.inference_mode()
    def tokenize(self, latents: Tensor) -> tuple[int, ...]:
        """The codes of latents `[T, C]`, which are padded with silence to whole codes."""
        _enter(self._modules, "condition encoder")
        _, indices = self._modules.audio_tokenizer.tokenize(latents[None].to(self._silence), self._silence)
        return tuple(indices.flatten().tolist())  # one copy, since each waits for the GPU

    @torch.inference_mode()
    def hints(self, codes: Sequence[int]) -> Tensor:
        """The latents `[T, C]` that codes stand for, `frames_per_code` frames each."""
        assert all(0 <= code < self.count for code in codes)
        _enter(self._modules, "condition encoder")
        indices = torch.tensor(codes, device=self._silence.device).view(1, -1, 1)
        quantized = self._modules.audio_tokenizer.quantizer.get_output_from_indices(indices)
        latents: Tensor = self._modules.audio_token_detokenizer(quantized)
        return latents[0]


class Conditioner:
    """Encodes plans with the loaded text and condition encoders."""

    def __init__(self, modules: SynthesizerModules) -> None:
        self._modules = modules
        self._codes = AudioCodes(modules)
        self._device = modules.silence_latent.device

    def inputs(
        self, plan: SongPlan, frames: int, sources: SourceLatents = NO_SOURCES, span: Span | None = None
    ) -> SongInputs:
        """The inputs of a song of `frames`; `span` is generated (None: all of it)."""
        mask = torch.ones(frames, dtype=torch.float32) if span is None else span.mask(frames)
        mask = mask.to(self._device)
        return SongInputs(
            source=self._source(plan, frames, sources, mask),
            chunk_mask=mask,
            reference=self.fit_length(sources.reference, self._modules.config.reference_frames),
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
        captions, lyrics = self._caption_tokens(plans), self._lyric_tokens(plans)
        text_encoder = self._modules.text_encoder
        _enter(self._modules, "text encoder")
        caption_states = text_encoder(captions.ids)
        lyric_embeddings = text_encoder.embed_tokens(lyrics.ids)
        _enter(self._modules, "condition encoder")
        states, mask = self._modules.condition_encoder(
            text_hidden_states=caption_states,
            text_attention_mask=captions.mask,
            lyric_hidden_states=lyric_embeddings,
            lyric_attention_mask=lyrics.mask,
            refer_audio_acoustic_hidden_states_packed=torch.stack([each.reference for each in inputs]),
            refer_audio_order_mask=torch.arange(len(inputs), device=self._device),
        )
        longest = int(mask.sum(dim=1).max())  # the encoder puts padding last
        return Condition(states[:, :longest], mask[:, :longest], self._context(inputs))

    def encode_without_source(self, plans: Sequence[SongPlan], inputs: Sequence[SongInputs]) -> Condition:
        """As `encode`, with the instruction of text2music, and silence for a source."""
        return self.encode(
            [replace(plan, instruction=TEXT2MUSIC_INSTRUCTION) for plan in plans],
            [replace(each, source=self.silence(len(each.source))) for each in inputs],
        )

    def with_null(self, condition: Condition) -> Condition:
        """The batch, then once more with the model's null condition in place of the states."""
        _enter(self._modules, "condition encoder")
        null = self._modules.condition_encoder.null_condition_emb.expand_as(condition.states)
        return Condition(
            states=torch.cat([condition.states, null]),
            mask=torch.cat([condition.mask, condition.mask]),
            context=torch.cat([condition.context, condition.context]),
        )

    def warnings(self, plan: SongPlan) -> tuple[str, ...]:
        """Sentences for the client about text that is longer than what the model reads."""
        checked = (
            ("caption", "with its metadata", self._caption_tokens([plan]), MAX_CAPTION_TOKENS),
            ("lyrics", "with their header", self._lyric_tokens([plan]), MAX_LYRIC_TOKENS),
        )
        return tuple(
            f"{field}: {tokens.lengths[0]} tokens {extra}, but the model reads {limit}; the end was left out"
            for field, extra, tokens, limit in checked
            if tokens.lengths[0] > limit
        )

    def _caption_tokens(self, plans: Sequence[SongPlan]) -> _Tokens:
        return self._tokenize([caption_prompt(plan) for plan in plans], MAX_CAPTION_TOKENS)

    def _lyric_tokens(self, plans: Sequence[SongPlan]) -> _Tokens:
        return self._tokenize([lyric_prompt(plan) for plan in plans], MAX_LYRIC_TOKENS)

    def _tokenize(self, texts: Sequence[str], limit: int) -> _Tokens:
        encoded = [encode(self._modules.tokenizer, text, limit) for text in texts]
        rows = [ids for ids, _, _ in encoded]
        ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for song, row in enumerate(rows):
            ids[song, : len(row)] = torch.tensor(row)
            mask[song, : len(row)] = 1
        return _Tokens(ids.to(self._device), mask.to(self._device), tuple(count for *_, count in encoded))

    def _context(self, inputs: Sequence[SongInputs]) -> Tensor:
        source = torch.stack([each.source for each in inputs])
        mask = torch.stack([each.chunk_mask for each in inputs]).to(source.dtype)
        mask_channels = self._modules.config.mask_channels
        return torch.cat([source, mask[..., None].expand(-1, -1, mask_channels)], dim=-1)


def _enter(modules: SynthesizerModules, group: str) -> None:
    # Before the modules of a group compute, they are brought to the device.
    if modules.placement is not None:
        modules.placement.enter(group)
