"""The settings of what clients see: address, key, web pages, bodies, answers."""

from __future__ import annotations

import base64
import os
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, SecretStr
from pydantic_settings import BaseSettings, NoDecode

from acestep.settings.types import (
    Folder,
    LogLevel,
    Origin,
    Switch,
    lower,
    number,
    setting,
    split,
    switch,
    to_int,
)


def _to_root_path(value: str) -> str:
    path = value.strip("/")
    if not re.fullmatch(r"[\w.~/-]*", path, re.ASCII):
        raise ValueError
    return f"/{path}" if path else ""


def _check_webhook_secret(secret: SecretStr | None) -> SecretStr | None:
    if secret is None:
        return None
    prefix, _, encoded = secret.get_secret_value().partition("_")
    if prefix != "whsec" or not 24 <= len(base64.b64decode(encoded, validate=True)) <= 64:
        raise ValueError
    return secret


class WireSettings(BaseSettings):
    api_host: str = setting("127.0.0.1", "a host name or address", "Address to listen on; 0.0.0.0 means all.")
    api_port: int = number(8001, 0, 65535, "", "Port to listen on; 0 takes a free one.")
    api_key: SecretStr | None = setting(
        None,
        "any text",
        "Key that clients must send. Empty or unset: the server is open to everyone.",
        shown="unset",
    )
    api_log_level: LogLevel = setting(
        "info", "debug, info, warning, error, critical", "How much is logged. The launch scripts set debug."
    )
    log_format: Annotated[Literal["text", "json"], BeforeValidator(lower)] = setting(
        "text",
        "text or json",
        "Form of log lines; json lines have the `job_id` of the job that they belong to.",
    )
    data_dir: Folder = setting(
        Path(".cache/acestep"),
        "a folder",
        "Folder of the job database, songs and uploads. Relative folders count from the project folder.",
    )
    tmpdir: Folder = setting(
        Path(),
        "a folder",
        "Folder of temporary files.",
        shown="`tmp` in ACESTEP_DATA_DIR",
    )
    cors_origins: Annotated[tuple[Origin, ...], NoDecode, split(",")] = setting(
        ("local",),
        "local, none, *, null, or origins as https://example.org, separated by commas",
        "Web pages that may call the server from a browser. local: pages on localhost, 127.0.0.1 and [::1], "
        "at any port; null: pages opened as files, and frames of any page. Others cannot read answers, and "
        "what they would change is refused (403).",
        shown="local",
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode, split(",")] = setting(
        (),
        "host names as music.example.org or *.example.org, separated by commas; * for any",
        "Names by which the server may be called, beside localhost and its address. Needed where a proxy "
        "passes its own name on to a server that listens on this machine alone.",
        shown="unset",
    )
    root_path: Annotated[str, AfterValidator(_to_root_path)] = setting(
        "",
        "a path as /music",
        "Path of the server at the proxy before it; links begin with it. The proxy may pass it on or not.",
        shown="unset",
    )
    keep_alive: int = number(
        75,
        1,
        None,
        "s",
        "How long a connection without a request stays open. `python -m uvicorn` has "
        "`--timeout-keep-alive` instead.",
    )
    request_timeout: int = number(
        30,
        1,
        None,
        "s",
        "How long a client may take to send a request's headers, or to go on with its body. "
        "`python -m uvicorn` has `--http acestep.rest.connections:TimedProtocol` instead, with 30 s.",
    )
    model_list: Annotated[Literal["wrapped", "openai"], BeforeValidator(lower)] = setting(
        "wrapped",
        "wrapped or openai",
        "Shape of `/v1/models` for clients that do not show which one they need.",
    )
    audio_links: Annotated[Literal["token", "path"], BeforeValidator(lower)] = setting(
        "token",
        "token or path",
        "What links to songs hold: a token, or the absolute path of the file, for clients on the same disk.",
    )
    audio_roots: Annotated[tuple[Folder, ...], NoDecode, split(os.pathsep)] = setting(
        (),
        "folders, separated as in PATH",
        "Folders on this machine whose audio files requests may name by path. Unset: none; upload instead.",
        shown="unset",
    )
    audio_needs_key: Switch = switch(
        False, "Require the key at `/v1/audio` too. Otherwise the unguessable link is enough to fetch a song."
    )
    max_body_mb: int = number(4, 1, None, "MiB", "Largest request body, uploaded files not counted.")
    max_upload_mb: int = number(200, 1, None, "MiB", "Largest uploaded audio file.")
    max_upload_seconds: float = number(600, 1, 600, "s", "Longest audio that a request may upload or name.")
    max_upload_channels: int = number(8, 1, 64, "channels", "Most channels that such audio may have.")
    webhook_secret: Annotated[SecretStr | None, AfterValidator(_check_webhook_secret)] = setting(
        None,
        "whsec_ and 24 to 64 bytes in base64",
        "Secret that signs webhooks, as in Standard Webhooks.",
        shown="generated in ACESTEP_DATA_DIR; the log shows it once",
    )
    webhook_allow_private: Switch = switch(
        False, "Send webhooks also to this machine, its network and its cloud's metadata address."
    )
    strict: Switch = switch(
        False, "Refuse values (422) that would otherwise be clamped or ignored with a warning in the answer."
    )
    strict_model: Switch = switch(
        False, "Refuse a `model` that is not loaded. Otherwise the default model runs, with a warning."
    )
    unknown_task_status: Annotated[Literal[0, 2], BeforeValidator(to_int)] = setting(
        2,
        "2 or 0",
        "Status that `/query_result` gives for an unknown id: 2 is failed, 0 (as once) is queued.",
    )
