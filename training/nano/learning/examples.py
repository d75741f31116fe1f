"""What the model sees: for each task a source, a target and the words that the server would send."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from acestep.codec.tone_noise import ToneNoiseConfig
from acestep.domain.song import (
    HINTED_INSTRUCTION,
    INSTRUMENTAL,
    LANGUAGES,
    Sampling,
    SongPlan,
    TaskType,
    instruction,
)
from training.nano.learning.pool import MIX, RAW, Coded, Latents
from training.nano.music.facts import Origin, cut, cut_starts, facts_of
from training.nano.music.instruments import track_of
from training.nano.music.piece import Facts, Piece, Place
from training.nano.sound.mixing import LOUDNESS
from training.nano.theory import transpose_key
from training.nano.words.captions import caption, metas

FRAME_RATE = 25
REFERENCE_FRAMES = 750
LONGEST = 120.0  # seconds of silence that the model has: its place begins anew after that
_TRANSPOSED = 5  # semitones, up and down
_MOVED = 0.4  # share of cuts from the middle that claim to lie later in a longer piece
_HINTED = 0.1  # share of the songs from words that follow audio codes
_FOLLOWS_LATENTS = 0.2  # share of covers that hear their source itself
_STEM_ALONE = 0.25  # share of the songs from words that are one track of a band, as loud as a song
_WITHOUT = 0.15  # and of those that are a band without one of its tracks
_UNUSED = Sampling(steps=1, guidance_scale=1.0, shift=1.0)  # no text depends on it

SHARES = {
    "text2music": 0.60,
    "reference": 0.07,
    "extract": 0.10,
    "lego": 0.05,
    "complete": 0.05,
    "cover": 0.07,
    "repaint": 0.06,
}


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One song. `source` None is silence from `start` (frames) on; `hinted`: the source becomes codes first.

    `mask` `[T]` is 1 where the model writes; `reference` is `[REFERENCE_FRAMES, C]`.
    """

    target: Tensor
    facts: Facts
    plan: SongPlan
    start: int
    source: Tensor | None = None
    hinted: bool = False
    mask: Tensor | None = None
    reference: Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """A piece with the two that its pairs need, where it has them."""

    own: Coded
    cover: Coded | None = None
    reference: Coded | None = None


def scale_of(coded: Sequence[Coded]) -> ToneNoiseConfig:
    """The codec whose latents have mean 0 and deviation 1 on these mixes."""
    sample = np.concatenate([each.mix[::5].astype(np.float32) for each in coded])
    tones, levels, shares, _ = RAW.sizes
    tone, level, share, pan = np.split(sample, np.cumsum([tones, levels, shares]), axis=1)
    level = level.reshape(-1, RAW.parts, RAW.bands)
    level_means, share_means = level.mean(axis=(0, 1)), share.mean(axis=0)
    return dataclasses.replace(
        RAW,
        tone_mean_db=round(float(tone.mean()), 2),
        tone_std_db=round(float(tone.std()), 2),
        level_mean_db=tuple(round(float(mean), 2) for mean in level_means),
        level_std_db=round(float((level - level_means).std()), 2),
        share_mean_db=tuple(round(float(mean), 2) for mean in share_means),
        share_std_db=round(float((share - share_means).std()), 2),
        pan_std=round(float(pan.std()), 3),
    )


class Shelf:
    """Groups by what they can show; `example` draws one of a length."""

    def __init__(self, groups: Sequence[Group], scale: ToneNoiseConfig) -> None:
        self._scale = scale
        self._groups = list(groups)
        self._bands = [group for group in groups if group.own.tracks]
        self._covered = [group for group in groups if group.cover]
        self._referred = [group for group in groups if group.reference]
        self._makers: dict[str, tuple[list[Group], Callable[..., Example]]] = {
            "text2music": (self._groups, self._song),
            "reference": (self._referred, self._with_reference),
            "extract": (self._bands, self._extract),
            "lego": (self._bands, self._lego),
            "complete": (self._bands, self._complete),
            "cover": (self._covered, self._cover),
            "repaint": (self._groups, self._repaint),
        }

    def example(self, frames: int, rng: random.Random, task: str | None = None) -> Example:
        """A clip of `frames`, whole where a piece is as long, else a cut."""
        name = task or rng.choices(list(SHARES), weights=list(SHARES.values()))[0]
        seconds = frames / FRAME_RATE
        groups, make = self._makers[name]
        able = [group for group in groups if group.own.piece.facts.seconds >= seconds]
        if not able:  # pairs are of shorter pieces
            make = self._song
            able = [group for group in self._groups if group.own.piece.facts.seconds >= seconds]
        return make(self._clip(able, frames, rng))

    def _clip(self, able: Sequence[Group], frames: int, rng: random.Random) -> _Clip:
        """Whole pieces are what is asked for: half of the clips, where there are any."""
        seconds = frames / FRAME_RATE
        wholes = [group for group in able if group.own.piece.facts.seconds == seconds]
        group = rng.choice(wholes if wholes and rng.random() < 0.5 else able)
        whole = group.own.piece.facts.seconds
        starts = [start for start in cut_starts(group.own.piece) if start + seconds <= whole + 1e-6]
        # An ending is asked for more often than its bar would be drawn; its bars begin where they do.
        start = whole - seconds if rng.random() < 0.2 else rng.choice(starts)
        return _Clip(group, round(start * FRAME_RATE), frames, rng, self._scale)

    def _song(self, clip: _Clip) -> Example:
        rng, own = clip.rng, clip.group.own
        kind = rng.random()
        if own.tracks and kind < _STEM_ALONE:
            name = rng.choice(own.tracks)
            facts = clip.facts({name})
            if facts.heard or facts.has_drums or facts.has_percussion:
                return self._from_words(clip, _full(clip.raw(own, f"of:{name}")), facts)
        if own.removable and kind < _STEM_ALONE + _WITHOUT:
            name = rng.choice(own.removable)
            facts = clip.facts(set(own.tracks) - {name})
            if facts.heard or facts.has_drums or facts.has_percussion:
                return self._from_words(clip, _full(clip.raw(own, f"but:{name}")), facts)
        return self._from_words(clip, clip.raw(own, MIX), clip.facts())

    def _from_words(self, clip: _Clip, raw: Tensor, facts: Facts) -> Example:
        target = clip.scaled(raw)
        hinted = clip.rng.random() < _HINTED
        facts, start = clip.moved(facts)
        told = HINTED_INSTRUCTION if hinted else instruction("text2music")
        return Example(
            target, facts, clip.plan("text2music", facts, told), start, target if hinted else None, hinted
        )

    def _with_reference(self, clip: _Clip) -> Example:
        example = self._from_words(clip, clip.raw(clip.group.own, MIX), clip.facts())
        other = clip.group.reference
        assert other is not None
        reference = clip.scaled(excerpt(torch.from_numpy(other.mix.astype(np.float32))))
        return dataclasses.replace(example, reference=reference)

    def _extract(self, clip: _Clip) -> Example:
        own = clip.group.own
        name = clip.rng.choice(own.tracks)
        return self._worked(clip, "extract", (MIX, f"of:{name}"), (name,), clip.facts({name}))

    def _lego(self, clip: _Clip) -> Example:
        own = clip.group.own
        name = clip.rng.choice(own.removable)
        return self._worked(clip, "lego", (f"but:{name}", MIX), (name,), clip.facts())

    def _complete(self, clip: _Clip) -> Example:
        own = clip.group.own
        name = clip.rng.choice(own.tracks)
        others = tuple(track for track in own.tracks if track != name)
        return self._worked(clip, "complete", (f"of:{name}", MIX), others, clip.facts())

    def _worked(
        self, clip: _Clip, task: TaskType, names: tuple[str, str], tracks: tuple[str, ...], facts: Facts
    ) -> Example:
        source, target = (clip.scaled(clip.raw(clip.group.own, name)) for name in names)
        told = instruction(task, tracks if clip.rng.random() < 0.9 else ())
        return Example(target, facts, clip.plan(task, facts, told), clip.start, source)

    def _cover(self, clip: _Clip) -> Example:
        source, covered = clip.group.own, clip.group.cover
        assert covered is not None
        if clip.rng.random() < 0.5:
            source, covered = covered, source
        piece = clip.cut(covered.piece)
        facts = clip.transposed(piece.facts)
        plan = clip.plan("cover", facts, HINTED_INSTRUCTION)
        heard = clip.scaled(clip.raw(source, MIX))
        hinted = clip.rng.random() >= _FOLLOWS_LATENTS
        return Example(clip.scaled(clip.raw(covered, MIX)), facts, plan, clip.start, heard, hinted)

    def _repaint(self, clip: _Clip) -> Example:
        target, facts = clip.scaled(clip.raw(clip.group.own, MIX)), clip.facts()
        length = clip.rng.randint(clip.frames // 8, int(0.6 * clip.frames))
        start = clip.rng.choice((0, clip.frames - length, clip.rng.randint(0, clip.frames - length)))
        mask = torch.zeros(clip.frames)
        mask[start : start + length] = 1.0
        plan = clip.plan("repaint", facts, instruction("repaint"))
        return Example(target, facts, plan, clip.start, target, mask=mask)


class _Clip:
    """A cut of a group, transposed; all that is drawn for it comes from `rng`."""

    def __init__(
        self, group: Group, start: int, frames: int, rng: random.Random, scale: ToneNoiseConfig
    ) -> None:
        self.group, self.start, self.frames, self.rng, self._scale = group, start, frames, rng, scale
        pitched = group.own.piece.facts.key_scale is not None
        self._semitones = rng.randint(-_TRANSPOSED, _TRANSPOSED) if pitched and rng.random() < 0.7 else 0

    def raw(self, coded: Coded, name: str) -> Tensor:
        latents: Latents = coded.latents[name][self.start : self.start + self.frames]
        found = torch.from_numpy(latents.astype(np.float32))
        return _transposed(found, self._semitones)

    def scaled(self, raw: Tensor) -> Tensor:
        return scaled(raw, self._scale)

    def cut(self, piece: Piece) -> Piece:
        seconds = self.frames / FRAME_RATE
        if piece.facts.seconds <= seconds:
            return piece
        return cut(piece, min(self.start / FRAME_RATE, piece.facts.seconds - seconds), seconds)

    def facts(self, names: set[str] | None = None) -> Facts:
        """What is true of the clip, or of the tracks `names` of it."""
        piece = self.cut(self.group.own.piece)
        facts = piece.facts
        if names is not None:
            key = facts.key_scale or "C major"
            origin = Origin(facts.style, facts.form, facts.bpm, facts.time_signature, key, facts.energy)
            stems = [stem for stem in piece.stems if track_of(stem.name) in names]
            own = {stem.name for stem in stems}
            notes = [note for note in piece.notes if note.stem in own]
            facts = facts_of(origin, stems, notes, facts.seconds, facts.place)
        return self.transposed(facts)

    def transposed(self, facts: Facts) -> Facts:
        if not self._semitones or facts.key_scale is None:
            return facts
        key = transpose_key(facts.key_scale, self._semitones)
        # A register is told by pitches, which have moved.
        return dataclasses.replace(facts, key_scale=key, register=None)

    def moved(self, facts: Facts) -> tuple[Facts, int]:
        """Now and then a later place in a longer piece, whole bars away: no piece is that long."""
        place = facts.place
        if place.starts or self.rng.random() >= _MOVED:
            return facts, self.start
        bar = facts.beats * 60.0 / facts.bpm
        bars = self.rng.randint(0, int((LONGEST - place.whole) / bar))
        whole = place.whole + bars * bar
        if not place.ends:
            whole = self.rng.uniform(whole, LONGEST)
        moved = Place(place.start + bars * bar, whole, place.starts, place.ends)
        return dataclasses.replace(facts, place=moved), round(moved.start * FRAME_RATE)

    def plan(self, task: TaskType, facts: Facts, told: str) -> SongPlan:
        given = metas(facts, self.rng)
        # Nano cannot sing: a language is to make no difference.
        language = self.rng.choice(LANGUAGES if self.rng.random() < 0.3 else ("en", "unknown"))
        return SongPlan(
            caption=caption(facts, self.rng).text,
            lyrics=INSTRUMENTAL,
            language=language,
            duration=facts.place.whole,
            seed=0,
            instruction=told,
            sampling=_UNUSED,
            task_type=task,
            bpm=given.bpm,
            key_scale=given.key_scale,
            time_signature=given.time_signature,
        )


def excerpt(latents: Tensor) -> Tensor:
    """`REFERENCE_FRAMES` of a reference as the server takes them: the middle of each third."""
    repeated = latents.repeat(-(-REFERENCE_FRAMES // len(latents)), 1)
    third, part = len(repeated) // 3, REFERENCE_FRAMES // 3
    starts = (number * third + (third - part) // 2 for number in range(3))
    return torch.cat([repeated[start : start + part] for start in starts])


def scaled(raw: Tensor, scale: ToneNoiseConfig) -> Tensor:
    """Raw values `[T, C]` on the codec's scale."""
    tone, level, share, pan = torch.split(raw, list(scale.sizes), dim=-1)
    level_mean = torch.tensor(scale.level_mean_db).repeat(scale.parts)
    return torch.cat(
        [
            (tone - scale.tone_mean_db) / scale.tone_std_db,
            (level - level_mean) / scale.level_std_db,
            (share - torch.tensor(scale.share_mean_db)) / scale.share_std_db,
            pan / scale.pan_std,
        ],
        dim=-1,
    )


def _full(raw: Tensor) -> Tensor:
    """A part of a mix as loud as a mix."""
    tones, levels, _, _ = RAW.sizes
    level = raw[:, tones : tones + levels].reshape(-1, RAW.parts, RAW.bands)
    power = (10 ** (level / 10)).sum(dim=2).flatten()
    heard = power[power > 1e-5]
    if not len(heard):
        return raw
    gain = float(LOUDNESS - 10 * torch.log10(heard.mean()))
    moved = raw.clone()
    loud = moved[:, : tones + levels]
    moved[:, : tones + levels] = torch.where(
        loud <= RAW.floor_db + 0.05, loud, (loud + gain).clamp_min(RAW.floor_db)
    )
    return moved


def _transposed(raw: Tensor, semitones: int) -> Tensor:
    moved = raw.clone()
    tones = RAW.semitones
    moved[:, :tones] = RAW.floor_db
    if semitones >= 0:
        moved[:, semitones:tones] = raw[:, : tones - semitones]
    else:
        moved[:, : tones + semitones] = raw[:, -semitones:tones]
    return moved
