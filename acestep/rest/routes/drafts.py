from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request

from acestep.errors import InvalidFieldError
from acestep.rest.deps import HttpServices, RequestBody, Services
from acestep.rest.drafts import formatted, to_format, to_understand, to_write, understood, written
from acestep.rest.envelope import Envelope
from acestep.rest.openapi import body_of
from acestep.rest.request.body import Body
from acestep.rest.request.draft_tasks import FormatTask, SampleTask, UnderstandTask, WriteTask
from acestep.rest.request.fields_planner import DraftFields
from acestep.rest.request.schemas import read_draft, read_plain
from acestep.rest.request.sounds import PATHS, SOURCE, Sound, lent
from acestep.rest.request.task_rules import check_strict, check_support, planner_name, require_planner
from acestep.rest.response.jobs import custom_sample, simple_sample
from acestep.rest.response.schemas import CreatedSample, CustomSample, DraftAnswer, SimpleSample
from acestep.rest.submit import named_sound
from acestep.rest.wait import wait_for_draft

router = APIRouter(tags=["drafts"])

SIMPLE = ("", "simple_mode")


@router.post("/create_random_sample", openapi_extra=body_of(SampleTask))
async def create_random_sample(
    body: RequestBody, services: Services
) -> Envelope[SimpleSample] | Envelope[CustomSample]:
    """Return a random example: a sentence for `sample_query`, or (`custom_mode`) a whole song."""
    if (read_plain(SampleTask, body.fields).sample_type or "").strip() in SIMPLE:
        return Envelope[SimpleSample](data=simple_sample(services.examples.draw_simple()))
    return Envelope[CustomSample](data=custom_sample(services.examples.draw_custom()))


@router.post("/format_input", openapi_extra=body_of(FormatTask))
async def format_input(request: Request, body: RequestBody, services: Services) -> Envelope[DraftAnswer]:
    """Let the planner improve caption and lyrics. Metadata that is sent stays as it is."""
    _refuse_files(body)
    task, ignored = read_draft(FormatTask, body.fields)
    warnings = _checked(task, ignored, services, "format_input")
    draft = await wait_for_draft(request, services.worker, to_format(task), services.config.draft_timeout)
    return Envelope(data=formatted(task, draft), extra=_extra((*warnings, *draft.warnings)))


@router.post("/v1/create_sample", openapi_extra=body_of(WriteTask))
async def create_sample(request: Request, body: RequestBody, services: Services) -> Envelope[CreatedSample]:
    """Let the planner make a song of one sentence: caption, lyrics and metadata, without sound."""
    return await _write(request, body, services, "sample")


@router.post("/v1/lyrics", openapi_extra=body_of(WriteTask))
async def lyrics(request: Request, body: RequestBody, services: Services) -> Envelope[CreatedSample]:
    """Let the planner write lyrics, or improve those that are sent, without sound."""
    return await _write(request, body, services, "lyrics")


async def _write(
    request: Request, body: Body, services: HttpServices, kind: Literal["sample", "lyrics"]
) -> Envelope[CreatedSample]:
    _refuse_files(body)
    task, ignored = read_draft(WriteTask, body.fields)
    warnings = _checked(task, ignored, services, "create_sample" if kind == "sample" else "lyrics")
    draft = await wait_for_draft(
        request, services.worker, to_write(task, kind), services.config.draft_timeout
    )
    return Envelope(data=written(task, draft, kind), extra=_extra((*warnings, *draft.warnings)))


@router.post("/v1/understand", openapi_extra=body_of(UnderstandTask))
async def understand(request: Request, body: RequestBody, services: Services) -> Envelope[DraftAnswer]:
    """Let the planner describe a song: its caption, lyrics and metadata."""
    task, ignored = read_draft(UnderstandTask, body.fields)
    warnings = _checked(task, ignored, services, "understand")
    _refuse_second_file(body)
    async with lent(body.files, services.uploads, services.probe) as sounds:
        sound = next(iter(sounds.values()), None)
        if task.src_audio_path:
            sound = await _named(task.src_audio_path, sound, services)
        warnings += sound.warnings if sound else ()
        check_strict(warnings, services.config.strict)
        asked = to_understand(task, sound.path if sound else None)
        draft = await wait_for_draft(request, services.worker, asked, services.config.draft_timeout)
    return Envelope(data=understood(draft), extra=_extra(warnings))


def _checked(
    task: DraftFields, ignored: tuple[str, ...], services: HttpServices, what: str
) -> tuple[str, ...]:
    planner = services.worker.planner(planner_name(task.lm_model_path))
    warnings = (*ignored, *check_support(task, planner))
    check_strict(warnings, services.config.strict)
    require_planner(planner, what)
    return warnings


async def _named(path: str, uploaded: Sound | None, services: Services) -> Sound:
    field = PATHS[SOURCE]
    if uploaded is not None:
        raise InvalidFieldError(field, path, "no path beside an uploaded file", "Send one of the two")
    return await named_sound(field, path, services)


def _extra(warnings: tuple[str, ...]) -> dict[str, list[str]] | None:
    # Not in `data`, whose keys are those of the original.
    return {"warnings": list(warnings)} if warnings else None


def _refuse_files(body: Body) -> None:
    for kind, upload in body.files.items():
        raise InvalidFieldError(kind, upload.filename, "no file", "Only text can be sent here")


def _refuse_second_file(body: Body) -> None:
    for kind, upload in list(body.files.items())[1:]:
        raise InvalidFieldError(kind, upload.filename, "one audio file")
