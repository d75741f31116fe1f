"""Answers to a chat: one completion, or its chunks as server-sent events."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from fastapi.sse import format_sse_event

from acestep.domain.song import Song, is_instrumental
from acestep.jobs.model import Job, JobView
from acestep.rest.errors import Problem
from acestep.rest.response.jobs import progress_text
from acestep.rest.spelling import JsonObject, code_string, data_url
from acestep.rest.wait import Recording

ID_LENGTH = 24  # as in the original
_USAGE = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """`model` is echoed; `created` is in seconds since the epoch."""

    job_id: str
    model: str
    created: int
    warnings: tuple[str, ...] = ()

    def completion(self, job: Job, recordings: Sequence[Recording]) -> bytes:
        """Return the whole answer. Reads the files."""
        message = {"role": "assistant", "content": content(job.songs[0]), **_sound(job, recordings)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        warnings = [*self.warnings, *(warning for song in job.songs for warning in song.warnings)]
        return _dump(
            self._body("chat.completion", choice)
            | {"usage": _USAGE, "warnings": list(dict.fromkeys(warnings))}
        )

    def opening(self) -> bytes:
        delta = {"role": "assistant", "content": "Generating music"}
        return self._chunk(delta, more={"warnings": list(self.warnings)})

    def heartbeat(self, view: JobView | None) -> bytes:
        progress = view.progress if view else None
        state = {
            "stage": progress.stage if progress else "queued",
            "fraction": round(progress.fraction, 4) if progress else 0.0,
            "text": progress_text(view) if view else "",
        }
        return self._chunk({"content": "."}, more={"progress": state})

    def words(self, song: Song) -> bytes:
        return self._chunk({"content": f"\n\n{content(song)}"})

    def sound(self, job: Job, recordings: Sequence[Recording]) -> bytes:
        """Return the chunk with all songs. Reads the files."""
        return self._chunk(_sound(job, recordings))

    def end(self) -> bytes:
        return self._chunk({}, "stop")

    def usage(self) -> bytes:
        """Return the chunk without choices (`stream_options.include_usage`)."""
        return _event(self._body("chat.completion.chunk") | {"usage": _USAGE})

    def failure(self, problem: Problem) -> list[bytes]:
        """Return the end of a stream that fails: the error as text, and as OpenAI's library raises it."""
        error = problem.like_openai() | {"code": problem.status}
        return [
            self._chunk({"content": f"\n\nError: {problem.message}"}),
            self._chunk({}, "error", {"error": error}),
        ]

    def _chunk(
        self, delta: JsonObject, finish_reason: str | None = None, more: JsonObject | None = None
    ) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return _event(self._body("chat.completion.chunk", choice) | (more or {}))

    def _body(self, kind: str, *choices: JsonObject) -> JsonObject:
        return {
            "id": f"chatcmpl-{self.job_id.replace('-', '')[:ID_LENGTH]}",
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": list(choices),
            "task_id": self.job_id,
        }


DONE = format_sse_event(data_str="[DONE]")


def content(song: Song) -> str:
    """Return a description of the song in Markdown."""
    plan = song.plan
    facts = {
        "Caption": plan.caption,
        "BPM": plan.bpm,
        "Key": plan.key_scale,
        "Time Signature": plan.time_signature,
        "Duration": f"{plan.duration:g} s",
        "Language": None if is_instrumental(plan.lyrics) else plan.language,
    }
    lines = [f"**{name}:** {value}" for name, value in facts.items() if value]
    lyrics = ["", "## Lyrics", plan.lyrics] if plan.lyrics.strip() else []
    return "\n".join(["## Metadata", *lines, *lyrics])


def _sound(job: Job, recordings: Sequence[Recording]) -> JsonObject:
    audio = [
        {
            "type": "audio_url",
            "audio_url": {"url": data_url(recording.path)},
            "seed": recording.song.plan.seed,
            "file": recording.link,
        }
        for recording in recordings
    ]
    found: JsonObject = {"audio": audio or None}
    if codes := code_string(job.songs[0].plan.audio_codes):
        found["audio_codes"] = codes
    return found


def _dump(body: JsonObject) -> bytes:
    return json.dumps(body, ensure_ascii=False, allow_nan=False).encode("utf-8")


def _event(body: JsonObject) -> bytes:
    # ASCII, since some clients take U+2028 for the end of a line.
    return format_sse_event(data_str=json.dumps(body, allow_nan=False))
