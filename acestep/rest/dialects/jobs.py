from __future__ import annotations

from collections.abc import Callable

from pydantic import BaseModel, Field

from acestep.jobs.model import JobState, JobView
from acestep.rest.response.jobs import error_of, progress_text, result_items, rounded
from acestep.rest.response.schemas import ETA, Metas, ResultItem
from acestep.rest.submit import Submission


class SubmittedJob(BaseModel):
    job_id: str
    status: JobState = "queued"
    queue_position: int = Field(description="Queued jobs, this one included.")
    eta_seconds: float | None = Field(None, description=ETA)
    warnings: list[str] = Field(description="Each value that was changed or ignored, as a sentence.")


class JobResult(BaseModel):
    """The songs of a job; single values are those of the first song."""

    audio_paths: list[str] = Field(description="Links to the audio, one for each song.")
    first_audio_path: str | None = None
    second_audio_path: str | None = None
    metas: Metas
    bpm: int | str
    duration: float | str
    genres: str
    keyscale: str
    timesignature: str
    generation_info: str
    status_message: str = "success"
    seed_value: str = Field(description="The seeds of all songs.")
    lm_model: str
    dit_model: str
    songs: list[ResultItem] = Field(description="Every song, as in /query_result.")


class JobObject(BaseModel):
    """The state of a job. Times are seconds since the epoch."""

    job_id: str
    status: JobState
    is_cancelling: bool = Field(False, description="It is to be cancelled, and still runs.")
    caption: str
    model: str = Field(description="The model that was asked for; an empty text: the default one.")
    queue_position: int = Field(0, description="From 1 while the job is queued, else 0.")
    progress: float = Field(description="From 0 to 1.")
    stage: str
    progress_text: str = Field(description="Progress as a sentence.")
    eta_seconds: float | None = Field(None, description=ETA)
    created_at: float
    started_at: float | None = None
    finished_at: float | None = None
    result: JobResult | None = None
    error: str | None = None
    warnings: list[str]


def submitted_job(submission: Submission) -> SubmittedJob:
    return SubmittedJob(
        job_id=submission.job_id,
        queue_position=submission.position,
        eta_seconds=rounded(submission.eta),
        warnings=list(submission.request.warnings),
    )


def job_object(view: JobView, link: Callable[[str, str], str]) -> JobObject:
    """`link` returns the link to a file, given its caption and name."""
    job = view.job
    items = result_items(view, link)
    return JobObject(
        job_id=job.id,
        status=job.state,
        is_cancelling=job.is_cancelling,
        caption=job.request.caption,
        model=job.request.model or "",
        queue_position=view.position or 0,
        progress=items[0].progress,
        stage=items[0].stage,
        progress_text=progress_text(view),
        eta_seconds=rounded(view.eta),
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        result=_result(items) if job.state == "succeeded" else None,
        error=error_of(job),
        warnings=list(dict.fromkeys(warning for item in items for warning in item.warnings)),
    )


def _result(items: list[ResultItem]) -> JobResult:
    first = items[0]
    paths = [item.file for item in items if item.file]
    return JobResult(
        audio_paths=paths,
        first_audio_path=paths[0] if paths else None,
        second_audio_path=paths[1] if len(paths) > 1 else None,
        metas=first.metas,
        bpm=first.metas.bpm,
        duration=first.metas.duration,
        genres=first.metas.genres,
        keyscale=first.metas.keyscale,
        timesignature=first.metas.timesignature,
        generation_info=first.generation_info,
        seed_value=first.seed_value,
        lm_model=first.lm_model,
        dit_model=first.dit_model,
        songs=items,
    )
