"""The planner: what a song is to be, and its sketch in audio codes, by the 5 Hz language model."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from acestep.domain.song import (
    CODES_A_SECOND,
    INSTRUMENTAL,
    MAX_DURATION,
    Draft,
    DraftRequest,
    Metadata,
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

# Tokens that blocks and drafts have about. How long one gets, nobody knows; these pace the progress only.
_USUAL_BLOCK, _USUAL_DRAFT = 120, 500
_NO_GUIDANCE = 1.0


@dataclass(frozen=True, slots=True)
class Watch:
    """Who looks on: `on_progress` gets a fraction, 0..1, from any thread; `cancelled` says to stop."""

    on_progress: Callable[[float], None] = lambda fraction: None
    cancelled: Cancelled = lambda: False


class Planner:
    """Plans songs. Many calls may be in flight at once.

    Everything raises `JobCancelledError` soon after `watch.cancelled()` turns true, and `PlannerError` where
    the language model fails. `longest` is the longest song, in seconds, that the planner may decide on.
    """

    def __init__(self, model: LanguageModel, generate: Generate, closed_turn: bool = False) -> None:
        """`generate` writes with `model`. `closed_turn`: codes follow a finished turn, as in the original."""
        self._model = model
        self._generate = generate
        self._closed_turn = closed_turn

    @property
    def name(self) -> str:
        """The language model's name."""
        return self._model.name

    @property
    def code_count(self) -> int:
        """How many different audio codes it knows."""
        return self._model.vocabulary.code_count

    async def decide(
        self, request: SongRequest, longest: float = MAX_DURATION, watch: Watch = Watch()
    ) -> Metadata:
        """Return the facts that all songs of `request` share; what the user gave stays as it is.

        Caption and language are the user's where the language model is not to choose them; an empty caption
        is None. Where the user gave bpm, key, time signature and duration, nothing is generated.
        """
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
            fixed = metadata.read(await self._write(generation, watch, _USUAL_BLOCK))
        caption = fixed.caption or request.caption.strip() or None
        return replace(fixed, caption=caption, language=fixed.language or request.language)

    async def sketch(
        self, request: SongRequest, decided: Metadata, seconds: float, seed: int, watch: Watch = Watch()
    ) -> tuple[int, ...]:
        """Return `int(5 * seconds)` audio codes for the song of `request` that has `seed`.

        `decided` is what `decide` returned; its duration gives way to `seconds`.
        """
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
            generation, lambda tokens: watch.on_progress(min(1.0, tokens / count)), watch.cancelled
        )
        written = codes.read(text)
        if len(written) != count:
            raise PlannerError(f"The language model wrote {len(written)} audio codes, not {count}.")
        return written

    async def draft(
        self, request: DraftRequest, longest: float = MAX_DURATION, watch: Watch = Watch()
    ) -> Draft:
        """Return the song on paper that `request` asks for, by its kind."""
        kinds = {"sample": self.compose, "format": self.format, "understand": self.understand}
        return await kinds[request.kind](request, longest, watch)

    async def compose(
        self, request: DraftRequest, longest: float = MAX_DURATION, watch: Watch = Watch()
    ) -> Draft:
        """Return a song for the sentence in `request.query`.

        What the request leaves open, instrumental or not and the language, the sentence says outright or the
        language model chooses.
        """
        instrumental = request.instrumental
        if instrumental is None:
            instrumental = sentence.is_instrumental(request.query)
        language = request.metadata.language or sentence.named_language(request.query)
        asked = replace(request, metadata=replace(request.metadata, language=language))
        prompt = self._model.render(prompts.sample(request.query, instrumental))
        return await self._draft(asked, prompt, INSTRUMENTAL if instrumental else None, longest, watch)

    async def format(
        self, request: DraftRequest, longest: float = MAX_DURATION, watch: Watch = Watch()
    ) -> Draft:
        """Return a better caption and better lyrics; what is instrumental stays so."""
        prompt = self._model.render(prompts.format(request.caption, request.lyrics))
        lyrics = INSTRUMENTAL if is_instrumental(request.lyrics) else None
        return await self._draft(request, prompt, lyrics, longest, watch)

    async def understand(
        self, request: DraftRequest, longest: float = MAX_DURATION, watch: Watch = Watch()
    ) -> Draft:
        """Return what `request.audio_codes` sketch. Their number says how long the song is."""
        seconds = max(1, round(len(request.audio_codes) / CODES_A_SECOND))
        asked = replace(request, metadata=replace(request.metadata, duration=seconds))
        prompt = self._model.render(prompts.understand(request.audio_codes))
        return await self._draft(asked, prompt, None, longest, watch)

    async def _draft(
        self, request: DraftRequest, prompt: tuple[int, ...], lyrics: str | None, longest: float, watch: Watch
    ) -> Draft:
        rules = BlockRules(request.metadata, longest=longest)
        form = draft_grammar(rules, self._model.vocabulary.end_of_turn, lyrics)
        sampling = token_sampling(request.options)
        generation = Generation(prompt, form.grammar, sampling, request.seed, form.max_tokens)
        return metadata.read_draft(await self._write(generation, watch, _USUAL_DRAFT))

    async def _write(self, generation: Generation, watch: Watch, usual: int) -> str:
        """Write a text of unknown length, of which `usual` tokens are half the way."""
        text = await self._generate(
            generation, lambda tokens: watch.on_progress(tokens / (tokens + usual)), watch.cancelled
        )
        watch.on_progress(1.0)
        return text

    def _turn(self, decided: Metadata) -> Text:
        if self._closed_turn:
            return prompts.closed_turn(decided, self._model.vocabulary.end_of_turn)
        return prompts.open_turn(decided)


def token_sampling(options: PlannerOptions) -> TokenSampling:
    """Return how tokens are drawn; a top-p of 1 or more, and no top-k, turn these off."""
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
    """What the user decided; the caption is never among it."""
    return Metadata(
        bpm=request.bpm,
        duration=None if request.duration is None else int(request.duration),
        key_scale=request.key_scale,
        language=request.language if request.language_fixed else None,
        time_signature=request.time_signature,
    )
