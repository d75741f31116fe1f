"""The nouns of the queue, as frozen dataclasses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from acestep.domain.song import Progress, Song, SongRequest

JobState = Literal["queued", "running", "succeeded", "failed", "cancelled"]


@dataclass(frozen=True, slots=True)
class Job:
    """One request on its way to songs. Times are epoch seconds.

    `started_at` and `attempts` count the latest and all starts that were not given back, `work_seconds`
    is how long the attempt took that ended the job, `error` is the sentence for the user of a failed job.
    """

    id: str
    state: JobState
    request: SongRequest
    created_at: float
    started_at: float | None = None
    finished_at: float | None = None
    attempts: int = 0
    error: str | None = None
    songs: tuple[Song, ...] = ()
    work_seconds: float | None = None

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state not in ("queued", "running")


@dataclass(frozen=True, slots=True)
class Ticket:
    """The answer to a submitted request; `position` counts the waiting jobs including this one."""

    job_id: str
    position: int


@dataclass(frozen=True, slots=True)
class Claim:
    """A job that runs from now on; `is_oldest` unless an older one is still queued."""

    job: Job
    is_oldest: bool


@dataclass(frozen=True, slots=True)
class JobView:
    """A job as it is now: `position` (from 1) while it is queued, `progress` while it runs."""

    job: Job
    position: int | None = None
    progress: Progress | None = None


@dataclass(frozen=True, slots=True)
class QueueStats:
    """How many jobs there are in each state, and how long one takes.

    `total` also counts cancelled ones. `max_waiting` is 0 when any number may wait.
    """

    total: int
    queued: int
    running: int
    succeeded: int
    failed: int
    max_waiting: int
    average_seconds: float

    @property
    def waiting(self) -> int:
        """Jobs that wait for a worker."""
        return self.queued
