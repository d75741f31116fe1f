"""Which callers expect the shapes of OpenAI's API."""

from __future__ import annotations

from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.types import Scope

OPENAI = "openai"
OPENAI_ROOT = "/api"  # every route is here as well, so that a client needs only one base URL
OPENAI_MEDIA_TYPE = "application/vnd.openai+json"
MODELS_PATH = "/v1/models"
_OPENAI_PATHS = ("/v1/chat/", "/v1/audio/", f"{MODELS_PATH}/")


def lists_like_openai(scope: Scope) -> bool:
    """Whether a caller of /v1/models gets OpenAI's list: by its request, its library, or the settings."""
    path, headers = _path(scope), Headers(scope=scope)
    wished: str = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("format", [""])[-1]
    if path.startswith(OPENAI_ROOT) or OPENAI_MEDIA_TYPE in headers.get("accept", ""):
        return True
    if wished:
        return wished == OPENAI
    is_library = OPENAI in headers.get("user-agent", "").lower()
    if is_library or any(name.startswith("x-stainless-") for name in headers):
        return True
    return "app" in scope and bool(getattr(scope["app"].state, "model_list", "") == OPENAI)


def fails_like_openai(scope: Scope) -> bool:
    """Whether errors have OpenAI's shape."""
    path = _path(scope).removeprefix(OPENAI_ROOT)
    return path.startswith(_OPENAI_PATHS) or (path == MODELS_PATH and lists_like_openai(scope))


def _path(scope: Scope) -> str:
    return str(scope["path"]).removeprefix(scope.get("root_path", ""))
