"""Plans songs with the 5 Hz language model: metadata, lyrics and audio codes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from acestep.domain.draft import Draft, DraftRequest, Metadata
from acestep.domain.song import (
    CODES_A_SECOND,
    INSTRUMENTAL,
    MAX_DURATION,
    PlannerOptions,
    SongRequest,
    is_instrumental,
)
from acestep.errors import PlannerError
from acestep.planner import codes, metadata, prompts, sentence
from acestep.planner.grammar import BlockRules, codes_grammar, draft_grammar, metadata_grammar
from acestep.planner.language_model import Generation, LanguageModel, Text, TokenSampling
from acestep.planner.loop import Cancelled, OnTokens

Generate = Callable[[Generation, OnTokens, Cancelled], Awaitable[str]]

# Tokens that blocks and drafts usually have, for the progress: their length is not known beforehand.
_USUAL_BLOCK, _USUAL_DRAFT = 120, 500
_NO_GUIDANCE = 1.0


@dataclass(frozen=True, slots=True)
class PlannerCallbacks:
    """Called on the thread of the language model. `on_progress` gets a fraction, 0..1."""

    on_progress: Callable[[float], None] = lambda fraction: None
    cancelled: Cancelled = lambda: False


_NO_CALLBACKS = PlannerCallbacks()


class Planner:
    """`longest` bounds the duration, in seconds. All methods raise JobCancelledError and PlannerError."""

    def __init__(self, model: LanguageModel, generate: Generate, closed_turn: bool = False) -> None:
        """`closed_turn`: audio codes follow a finished turn, as in the original."""
        self._model = model
        self._generate = generate
        self._closed_turn = closed_turn

    @property
    def name(self) -> str:
        return self._model.name

    @property
    def code_count(self) -> int:
        return self._model.vocabulary.code_count

    async def decide(
        self, request: SongRequest, longest: float = MAX_DURATION, callbacks: PlannerCallbacks = _NO_CALLBACKS
    ) -> Metadata:
        """The metadata that all songs of `request` share; the user's own is kept."""
        fixed = fixed_facts(request)
        if None in (fixed.bpm, fixed.key_scale, fixed.time_signature, fixed.duration):
            options = request.planner
            rules = BlockRules(
                fixed, longest=longest, caption=options.use_cot_caption, language=options.use_cot_language
            )
            form = metadata_grammar(rules)
            null = prompts.plan_null(request.lyrics, options.negative_prompt)
            generation = Generation(
                prompt=self._model.render(prompts.plan(request.caption, request.lyrics)),
                grammar=form.grammar,
                sampling=token_sampling(options),
                seed=request.seeds[0],
                max_tokens=form.max_tokens,
                null_prompt=self._model.render(null) if _is_guided(options) else None,
            )
            fixed = metadata.read(await self._generate_text(generation, callbacks, _USUAL_BLOCK))
        caption = fixed.caption or request.caption.strip() or None
        return replace(fixed, caption=caption, language=fixed.language or request.language)

    async def sketch(
        self,
        request: SongRequest,
        decided: Metadata,
        seconds: float,
        seed: int,
        callbacks: PlannerCallbacks = _NO_CALLBACKS,
    ) -> tuple[int, ...]:
        """`int(5 * seconds)` audio codes for the song with this seed; `decided` is the result of `decide`."""
        options = request.planner
        count = int(CODES_A_SECOND * seconds)
        form = codes_grammar(count, self._model.vocabulary)
        prompt = prompts.plan(request.caption, request.lyrics)
        null = prompts.codes_null(request.caption, request.lyrics, options.negative_prompt)
        generation = Generation(
            prompt=self._model.render(prompt, self._turn(replace(decided, duration=int(seconds)))),
            grammar=form.grammar,
            sampling=token_sampling(options),
            seed=seed,
            max_tokens=form.max_tokens,
            null_prompt=self._model.render(null, self._turn(Metadata())) if _is_guided(options) else None,
        )
        text = await self._generate(
            generation, lambda tokens: callbacks.on_progress(min(1.0, tokens / count)), callbacks.cancelled
        )
        written = codes.read(text)
        if len(written) != count:
            raise PlannerError(f"The language model wrote {len(written)} audio codes, not {count}.")
        return written

    async def draft(
        self,
        request: DraftRequest,
        longest: float = MAX_DURATION,
        callbacks: PlannerCallbacks = _NO_CALLBACKS,
    ) -> Draft:
        kinds = {"sample": self.compose, "format": self.format, "understand": self.understand}
        return await kinds[request.kind](request, longest, callbacks)

    async def compose(
        self,
        request: DraftRequest,
        longest: float = MAX_DURATION,
        callbacks: PlannerCallbacks = _NO_CALLBACKS,
    ) -> Draft:
        """A song for `request.query`, which may itself say instrumental or name a language."""
        instrumental = request.instrumental
        if instrumental is None:
            instrumental = sentence.is_instrumental(request.query)
        language = request.metadata.language or sentence.named_language(request.query)
        asked = replace(request, metadata=replace(request.metadata, language=language))
        prompt = self._model.render(prompts.sample(request.query, instrumental))
        return await self._draft(asked, prompt, INSTRUMENTAL if instrumental else None, longest, callbacks)

    async def format(
        self,
        request: DraftRequest,
        longest: float = MAX_DURATION,
        callbacks: PlannerCallbacks = _NO_CALLBACKS,
    ) -> Draft:
        """A better caption and better lyrics; instrumental songs stay instrumental."""
        prompt = self._model.render(prompts.format(request.caption, request.lyrics))
        lyrics = INSTRUMENTAL if is_instrumental(request.lyrics) else None
        return await self._draft(request, prompt, lyrics, longest, callbacks)

    async def understand(
        self,
        request: DraftRequest,
        longest: float = MAX_DURATION,
        callbacks: PlannerCallbacks = _NO_CALLBACKS,
    ) -> Draft:
        """Metadata and lyrics of `request.audio_codes`, whose number gives the duration."""
        seconds = max(1, round(len(request.audio_codes) / CODES_A_SECOND))
        asked = replace(request, metadata=replace(request.metadata, duration=seconds))
        prompt = self._model.render(prompts.understand(request.audio_codes))
        return await self._draft(asked, prompt, None, longest, callbacks)

    async def _draft(
        self,
        request: DraftRequest,
        prompt: tuple[int, ...],
        lyrics: str | None,
        longest: float,
        callbacks: PlannerCallbacks,
    ) -> Draft:
        rules = BlockRules(request.metadata, longest=longest)
        form = draft_grammar(rules, self._model.vocabulary.end_of_turn, lyrics)
        sampling = token_sampling(request.options)
        generation = Generation(prompt, form.grammar, sampling, request.seed, form.max_tokens)
        return metadata.read_draft(await self._generate_text(generation, callbacks, _USUAL_DRAFT))

    async def _generate_text(self, generation: Generation, callbacks: PlannerCallbacks, usual: int) -> str:
        # Generate a text of unknown length; after `usual` tokens the progress is one half.
        text = await self._generate(
            generation, lambda tokens: callbacks.on_progress(tokens / (tokens + usual)), callbacks.cancelled
        )
        callbacks.on_progress(1.0)
        return text

    def _turn(self, decided: Metadata) -> Text:
        if self._closed_turn:
            return prompts.closed_turn(decided, self._model.vocabulary.end_of_turn)
        return prompts.open_turn(decided)


def token_sampling(options: PlannerOptions) -> TokenSampling:
    return TokenSampling(
        temperature=options.temperature,
        top_k=options.top_k or 0,
        top_p=min(options.top_p, 1.0),
        repetition_penalty=options.repetition_penalty,
        guidance_scale=options.guidance_scale,
    )


def _is_guided(options: PlannerOptions) -> bool:
    return options.guidance_scale != _NO_GUIDANCE


def fixed_facts(request: SongRequest) -> Metadata:
    """The user's metadata, without the caption."""
    return Metadata(
        bpm=request.bpm,
        duration=None if request.duration is None else int(request.duration),
        key_scale=request.key_scale,
        language=request.language if request.language_fixed else None,
        time_signature=request.time_signature,
    )
