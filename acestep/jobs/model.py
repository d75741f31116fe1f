from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from acestep.domain.song import Progress, Song, SongRequest

JobState = Literal["queued", "running", "succeeded", "failed", "cancelled"]
ENDED: tuple[JobState, ...] = ("succeeded", "failed", "cancelled")

# What happened to a job. "requeued": its server stopped or died. Progress is told, but not stored.
EventKind = JobState | Literal["started", "requeued", "song"]


class Lease(NamedTuple):
    """The right to run a job. The token grows with each claim; a report with an older one is refused."""

    job_id: str
    token: int


@dataclass(frozen=True, slots=True)
class Job:
    """One request in the queue. Times are epoch seconds."""

    id: str
    state: JobState
    request: SongRequest
    created_at: float
    started_at: float | None = None  # of the last attempt
    finished_at: float | None = None
    attempts: int = 0  # without those that a stopping server took back
    error: str | None = None  # a sentence for the user
    songs: tuple[Song, ...] = ()
    work_seconds: float | None = None  # of the attempt that ended the job
    token: int = 0  # of the last claim
    is_cancelling: bool = False  # it is to be cancelled, and still runs

    @property
    def lease(self) -> Lease:
        return Lease(self.id, self.token)


@dataclass(frozen=True, slots=True)
class JobEvent:
    number: int  # grows over all jobs
    job_id: str
    kind: EventKind
    at: float
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Renewal:
    """What became of leases that were to be renewed."""

    lost: tuple[str, ...] = ()  # jobs that are no longer the caller's
    cancelling: tuple[str, ...] = ()  # and those that are to be cancelled


@dataclass(frozen=True, slots=True)
class Receipt:
    job_id: str
    position: int  # in the queue, from 1
    seconds: float = 0.0  # that the queued jobs up to this one take
    eta: float = 0.0  # seconds until it is done


class Hook(NamedTuple):
    """Where events of a job are sent, and which."""

    url: str
    events: tuple[str, ...]


class Once(NamedTuple):
    """A submission that may come twice: the name that a client gave it, and a hash of what it asks for."""

    id: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Claim:
    job: Job
    is_oldest: bool  # no older job is queued
    seconds: float = 0.0  # that it will take


@dataclass(frozen=True, slots=True)
class JobView:
    job: Job
    position: int | None = None  # while it is queued
    progress: Progress | None = None  # while it runs
    seconds: float = 0.0  # that it takes; while it is queued, with the jobs before it
    eta: float | None = None  # seconds until it ends, while it has not
    note: str = ""  # why a queued job does not run yet, as a sentence without its full stop


@dataclass(frozen=True, slots=True)
class QueueStats:
    total: int  # with cancelled jobs
    queued: int
    running: int
    succeeded: int
    failed: int
    max_waiting: int  # 0: no limit
    average_seconds: float
