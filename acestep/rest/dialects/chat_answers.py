"""The answers to a chat: one completion, or chunks of it as server-sent events."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from acestep.domain.song import Song, is_instrumental
from acestep.jobs.model import Job, JobView
from acestep.rest.errors import Problem
from acestep.rest.response.jobs import progress_text
from acestep.rest.spelling import audio_link, code_string, data_url
from acestep.rest.wait import Recording

ID_LENGTH = 24  # as long as those of the original
_USAGE = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """Makes the answers to one chat. `model` is echoed, `created` in seconds since the epoch."""

    job_id: str
    model: str
    created: int
    warnings: tuple[str, ...] = ()

    def completion(self, job: Job, recordings: Sequence[Recording]) -> bytes:
        """Return the whole answer as JSON. Reads the files."""
        message = {"role": "assistant", "content": content(job.songs[0]), **_sound(job, recordings)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        warnings = [*self.warnings, *(warning for song in job.songs for warning in song.warnings)]
        return _dump(
            self._body("chat.completion", choice)
            | {"usage": _USAGE, "warnings": list(dict.fromkeys(warnings))}
        )

    def opening(self) -> bytes:
        """Return the first chunk, which names the job and says what was changed."""
        delta = {"role": "assistant", "content": "Generating music"}
        return self._chunk(delta, more={"warnings": list(self.warnings)})

    def heartbeat(self, view: JobView | None) -> bytes:
        """Return the chunk that says that the song is being made, and how far it is."""
        progress = view.progress if view else None
        state = {
            "stage": progress.stage if progress else "queued",
            "fraction": round(progress.fraction, 4) if progress else 0.0,
            "text": progress_text(view) if view else "",
        }
        return self._chunk({"content": "."}, more={"progress": state})

    def words(self, song: Song) -> bytes:
        """Return the chunk that says what the song is."""
        return self._chunk({"content": f"\n\n{content(song)}"})

    def sound(self, job: Job, recordings: Sequence[Recording]) -> bytes:
        """Return the chunk that holds all songs. Reads the files."""
        return self._chunk(_sound(job, recordings))

    def end(self) -> bytes:
        """Return the last chunk of an answer."""
        return self._chunk({}, "stop")

    def usage(self) -> bytes:
        """Return the chunk without choices that clients may ask for."""
        return _event(self._body("chat.completion.chunk") | {"usage": _USAGE})

    def failure(self, problem: Problem) -> list[bytes]:
        """Return how an answer ends that has begun already: in words, and in a form that libraries raise."""
        error = {"code": problem.status, "message": problem.message}
        return [
            self._chunk({"content": f"\n\nError: {problem.message}"}),
            self._chunk({}, "error", {"error": error}),
        ]

    def _chunk(
        self, delta: dict[str, Any], finish_reason: str | None = None, more: dict[str, Any] | None = None
    ) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return _event(self._body("chat.completion.chunk", choice) | (more or {}))

    def _body(self, kind: str, *choices: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{self.job_id.replace('-', '')[:ID_LENGTH]}",
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": list(choices),
            "task_id": self.job_id,
        }


DONE = b"data: [DONE]\n\n"


def content(song: Song) -> str:
    """Return what a song is, in Markdown."""
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


def _sound(job: Job, recordings: Sequence[Recording]) -> dict[str, Any]:
    audio = [
        {
            "type": "audio_url",
            "audio_url": {"url": data_url(recording.path)},
            "seed": recording.song.plan.seed,
            "file": audio_link(recording.song.plan.caption, recording.token),
        }
        for recording in recordings
    ]
    found: dict[str, Any] = {"audio": audio or None}
    if codes := code_string(job.songs[0].plan.audio_codes):
        found["audio_codes"] = codes
    return found


def _dump(body: dict[str, Any]) -> bytes:
    return json.dumps(body, ensure_ascii=False, allow_nan=False).encode("utf-8")


def _event(body: dict[str, Any]) -> bytes:
    """One event. Everything beyond ASCII is escaped: some clients take U+2028 for the end of a line."""
    return b"data: " + json.dumps(body, allow_nan=False).encode("ascii") + b"\n\n"
