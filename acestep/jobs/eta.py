"""How long a job will take, by the speeds at which the stages of earlier jobs ran."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from statistics import fmean, linear_regression, median, pvariance
from typing import NamedTuple

from acestep.domain.song import Song, SongRequest

KEPT = 48  # jobs of a kind that are looked back upon
MOST_BESIDE = 1.15  # times its stages that a job takes by itself
LATEST = 5  # jobs that show how fast the machine is now, which may have other work

_Samples = deque[tuple[float, float]]  # units of work, and the seconds that they took
_Kind = tuple[str, str]  # of a Work: its model and kind


class Work(NamedTuple):
    """What the time of a job depends on."""

    model: str  # "": the default one
    kind: str  # the task, and what the planner does for it
    songs: int
    duration: float | None  # seconds of a song; None: the planner decides
    steps: int | None  # None: as many as the model takes by itself


UNKNOWN = Work("", "", 1, None, None)


class Speeds:
    """Seconds of music a second by model, kind and stage, with what a stage takes beside that."""

    def __init__(self, assumed_seconds: float) -> None:
        """`assumed_seconds` are those of a job before any was done."""
        self._assumed = assumed_seconds
        self._stages: dict[_Kind, defaultdict[str, _Samples]] = {}
        self._songs: defaultdict[_Kind, _Samples] = defaultdict(_kept)
        # Of a job to the sum of its stages: songs share batches, and some stages run beside others.
        self._ratios: defaultdict[tuple[str, str, int], deque[float]] = defaultdict(_latest)
        self._made_by: dict[_Kind, str] = {}
        self._fits: dict[tuple[_Kind, str], tuple[float, float]] = {}
        self._known: dict[Work, float] = {}  # since the last job
        self._latest: deque[tuple[_Kind, Work, float]] = deque(maxlen=LATEST)

    def learn(self, request: SongRequest, songs: Sequence[Song], seconds: float) -> None:
        """Take over what a job has shown that took `seconds`."""
        if not songs:
            return
        work = work_of(request)
        key, made_by = (work.model, work.kind), songs[0].dit_model
        if self._made_by.setdefault(key, made_by) != made_by:  # the slot has another model by now
            self._forget(key)
            self._made_by[key] = made_by
        self._fits, self._known = {}, {}
        plan = songs[0].plan
        work = work._replace(duration=plan.duration, steps=plan.sampling.steps)
        self._songs[key].append((plan.duration, plan.sampling.steps))
        totals: defaultdict[str, float] = defaultdict(float)
        for song in songs:
            for stage, spent in (song.timings or {"": seconds / len(songs)}).items():
                totals[stage] += spent
        stages = self._stages.pop(key, defaultdict(_kept))
        self._stages[key] = stages  # at the end: the latest
        music = len(songs) * plan.duration
        for stage, spent in totals.items():
            stages[stage].append((_units(stage, music, plan.sampling.steps), spent))
        if together := sum(totals.values()):
            # A job that waited for another, or for its model, took longer than its work.
            ratio = min(seconds / together, MOST_BESIDE)
            self._ratios[(*key, len(songs))].append(ratio)
            self._latest.append((key, work, ratio * together))

    def seconds(self, work: Work) -> float:
        if work not in self._known:
            key = self._nearest(work)
            self._known[work] = self._assumed if key is None else self._pace() * self._estimate(key, work)
        return self._known[work]

    def _pace(self) -> float:
        # Of the latest jobs: the seconds that they took by those that all earlier ones make expect.
        told = [
            (self._estimate(key, work), seconds) for key, work, seconds in self._latest if key in self._stages
        ]
        return median([seconds / expected for expected, seconds in told if expected] or [1.0])

    def _estimate(self, key: _Kind, work: Work) -> float:
        lasts, takes = zip(*self._songs[key], strict=True)
        music = work.songs * (median(lasts) if work.duration is None else work.duration)
        steps = median(takes) if work.steps is None else work.steps
        total = 0.0
        for stage, samples in self._stages[key].items():
            if (key, stage) not in self._fits:
                self._fits[key, stage] = _fit(samples)
            pace, overhead = self._fits[key, stage]
            total += pace * _units(stage, music, steps) + overhead
        ratios = self._ratios.get((*key, work.songs))
        return total * (median(ratios) if ratios else 1.0)

    def _nearest(self, work: Work) -> _Kind | None:
        key = (work.model, work.kind)
        if key in self._stages:
            return key
        latest = [*reversed(self._stages)]
        of_model = (known for known in latest if known[0] == work.model)
        return next(of_model, latest[0] if latest else None)

    def _forget(self, key: _Kind) -> None:
        self._stages.pop(key, None)
        self._songs.pop(key, None)
        self._latest = deque([each for each in self._latest if each[0] != key], LATEST)
        for known in [each for each in self._ratios if each[:2] == key]:
            del self._ratios[known]


def work_of(request: SongRequest) -> Work:
    planner, stems = request.planner, request.task.tracks if request.task.rest else request.analysis.stems
    kind: list[str] = [request.task_type, request.goal]
    if planner.thinking and not request.audio_codes:
        kind.append("thinking")
    if planner.wants_draft:
        kind.append("draft")
    if stems:
        kind.append(f"{len(stems)} stems")
    steps = request.sampler.steps
    if steps is None and request.sampler.timesteps is not None:
        steps = len(request.sampler.timesteps)
    return Work(
        model=request.model or "",
        kind=" ".join(kind),
        songs=max(1, len(request.seeds)),
        duration=request.duration or request.task.source_seconds,
        steps=steps,
    )


def _kept() -> _Samples:
    return deque(maxlen=KEPT)


def _latest() -> deque[float]:
    return deque(maxlen=KEPT)


def _units(stage: str, music: float, steps: float) -> float:
    return music * steps if stage == "render" else music


def _fit(samples: _Samples) -> tuple[float, float]:
    # seconds = pace * units + overhead, with the least squares of relative errors.
    inverse = [1 / max(units, 1e-6) for units, _ in samples]
    paces = [spent * each for (_, spent), each in zip(samples, inverse, strict=True)]
    if len(samples) > 2 and pvariance(inverse) > 0:
        overhead, pace = linear_regression(inverse, paces)
        if overhead >= 0 and pace >= 0:
            return pace, overhead
    return fmean(paces), 0.0
