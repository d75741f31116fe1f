"""The hubs of published models: Hugging Face and ModelScope.

Their clients are imported late, because they read their environment variables on import.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from queue import Empty, Queue
from typing import Any, Literal, Protocol

from acestep.errors import AceStepError, CheckpointError

Source = Literal["auto", "huggingface", "modelscope"]
OnBytes = Callable[[int], None]

# Code is never fetched, let alone run; the rest is for readers of the hub's web page.
NEVER = ("*.py", "*.md", ".gitattributes")
PROBE_SECONDS = 5.0  # a start without network waits no longer, whatever name servers and proxies do

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pull:
    """The files of one repository that match `patterns` (None: all), for the folder `into`."""

    repo: str
    into: Path
    patterns: tuple[str, ...] | None = None

    def wants(self, path: str) -> bool:
        wanted = self.patterns is None or any(fnmatch(path, pattern) for pattern in self.patterns)
        return wanted and not any(fnmatch(path, pattern) for pattern in NEVER)


class Hub(Protocol):
    @property
    def address(self) -> str:
        """Its URL."""
        ...

    def reachable(self) -> bool:
        """Whether it answers within seconds."""
        ...

    def pull(self, pull: Pull, on_bytes: OnBytes) -> None:
        """Fetch missing and incomplete files.

        `on_bytes` is called from any thread with the number received, and may raise an AceStepError to stop.
        Raises CheckpointError.
        """
        ...


def hubs(source: Source, token: str | None = None) -> tuple[Hub, ...]:
    """The hubs in the order in which they are tried; auto prefers those that answer."""
    both = _wished_first(source, token)
    if source != "auto":
        return both
    found = answering(both)
    return tuple(sorted(both, key=lambda hub: hub not in found))


def any_reachable(source: Source) -> bool:
    """Whether a hub answers; no with HF_HUB_OFFLINE."""
    if is_offline():
        return False
    return bool(answering(_wished_first(source), enough=1))


def answering(hubs: Sequence[Hub], enough: int = 0, seconds: float = PROBE_SECONDS) -> list[Hub]:
    """Those that answer within `seconds`; does not wait for more than `enough` (0: all)."""
    log.info("Waiting for an answer of %s (%g s at most)", " or ".join(hub.address for hub in hubs), seconds)
    answers: Queue[Hub | None] = Queue()
    for hub in hubs:
        # A thread that stays behind, in the look-up of a name, ends with the process.
        ask = partial(lambda hub: answers.put(hub if hub.reachable() else None), hub)
        threading.Thread(target=ask, name="hub probe", daemon=True).start()
    found, until = list[Hub](), time.monotonic() + seconds
    with suppress(Empty):
        for _ in hubs:
            if answer := answers.get(timeout=max(0.0, until - time.monotonic())):
                found.append(answer)
            if enough and len(found) >= enough:
                break
    return found


def _wished_first(source: Source, token: str | None = None) -> tuple[Hub, Hub]:
    one, other = HuggingFace(token=token), ModelScope(token=token)
    return (other, one) if source == "modelscope" else (one, other)


def is_offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


class HuggingFace:
    """huggingface.co, or what HF_ENDPOINT names instead."""

    def __init__(self, endpoint: str | None = None, token: str | None = None) -> None:
        self._endpoint = endpoint
        self._token = token

    @property
    def address(self) -> str:
        """Its URL."""
        from huggingface_hub import constants

        return self._endpoint or constants.ENDPOINT

    def reachable(self) -> bool:
        return _answers(self.address)

    def pull(self, pull: Pull, on_bytes: OnBytes) -> None:
        from huggingface_hub.errors import RepositoryNotFoundError

        try:
            self._pull(pull, on_bytes)
        except AceStepError:
            raise
        except RepositoryNotFoundError:  # also what it says if access is restricted
            raise CheckpointError(_not_there(self.address, pull.repo, "HF_TOKEN")) from None
        except Exception as error:
            raise CheckpointError(_failed(self.address, error)) from error

    def _pull(self, pull: Pull, on_bytes: OnBytes) -> None:
        from huggingface_hub import HfApi, snapshot_download

        bar = _byte_bar(on_bytes)
        patterns = list(pull.patterns) if pull.patterns else None
        for attempt in (1, 2):
            snapshot_download(
                pull.repo,
                local_dir=pull.into,
                allow_patterns=patterns,
                ignore_patterns=list(NEVER),
                tqdm_class=bar,
                endpoint=self._endpoint,
                token=self._token,
            )
            listing = HfApi(self._endpoint, self._token).list_repo_tree(pull.repo, recursive=True)
            spoilt = [path for file in listing if (path := _spoilt(file, pull))]
            for path in spoilt:
                path.unlink()
            if not spoilt:
                return
            if attempt == 2:
                names = ", ".join(path.name for path in spoilt)
                raise CheckpointError(f"{self.address} sent another {names} than it lists (checksums differ)")


class ModelScope:
    """modelscope.cn, or what MODELSCOPE_ENDPOINT names instead; the same repositories."""

    def __init__(self, endpoint: str | None = None, token: str | None = None) -> None:
        self._endpoint = endpoint
        self._token = token

    @property
    def address(self) -> str:
        """Its URL."""
        from modelscope_hub.config import HubConfig

        return str(HubConfig(endpoint=self._endpoint, token=self._token).endpoint)

    def reachable(self) -> bool:
        return _answers(self.address)

    def pull(self, pull: Pull, on_bytes: OnBytes) -> None:
        """The client resumes, and checks sizes and checksums itself."""
        from modelscope_hub import HubApi
        from modelscope_hub.errors import AuthenticationError, NotExistError, PermissionDeniedError

        _hush()
        counter = _Counter(on_bytes)
        try:
            HubApi(endpoint=self._endpoint, token=self._token).download_repo(
                pull.repo,
                "model",
                local_dir=pull.into,
                allow_patterns=list(pull.patterns) if pull.patterns else None,
                ignore_patterns=list(NEVER),
                progress_callbacks=[counter.callback()],
            )
        except (NotExistError, AuthenticationError, PermissionDeniedError):
            raise CheckpointError(_not_there(self.address, pull.repo, "MODELSCOPE_API_TOKEN")) from None
        except Exception as error:
            if counter.stopped_by:
                raise counter.stopped_by from None
            raise CheckpointError(_failed(self.address, _first_failure(error))) from error


class _Counter:
    # Keeps what `on_bytes` raises: the client takes it for a network error and retries.
    def __init__(self, on_bytes: OnBytes) -> None:
        self._on_bytes = on_bytes
        self._lock = threading.Lock()
        self.stopped_by: AceStepError | None = None

    def callback(self) -> Any:
        from modelscope_hub import ProgressCallback
        from modelscope_hub.errors import HubError

        counter = self

        class Callback(ProgressCallback):
            def update(self, size: int) -> None:
                try:
                    counter.add(size)
                except AceStepError as error:
                    raise HubError(str(error)) from error  # of the errors, the one that it does not retry

        return Callback

    def add(self, count: int) -> None:
        with self._lock:
            if self.stopped_by:
                raise self.stopped_by
            try:
                self._on_bytes(count)
            except AceStepError as error:
                self.stopped_by = error
                raise


def _byte_bar(on_bytes: OnBytes) -> Any:
    from huggingface_hub.utils.tqdm import tqdm

    class ByteBar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            # Other bars count files, or the same bytes on their way.
            self.counts = kwargs.get("name") == "huggingface_hub.snapshot_download"
            super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> None:
            if self.counts and n:
                on_bytes(int(n))

    return ByteBar


def _hush() -> None:
    from modelscope_hub import _download as client

    if bar := getattr(client, "tqdm", None):  # it has no setting for that
        setattr(client, "tqdm", partial(getattr(bar, "func", bar), disable=True))  # noqa: B010 - not its API
    logging.getLogger("modelscope_hub").setLevel(logging.CRITICAL)


def _spoilt(file: Any, pull: Pull) -> Path | None:
    # The path of a file that differs from the hub's checksum: SHA-256 for large files, else git's.
    from huggingface_hub.utils.sha import git_hash, sha_fileobj

    path = pull.into / file.path
    if not pull.wants(file.path) or not path.is_file():
        return None
    if file.lfs:
        with path.open("rb") as content:
            same = sha_fileobj(content).hex() == file.lfs.sha256
    else:
        same = file.blob_id in (None, git_hash(path.read_bytes()))
    return None if same else path


def _answers(address: str) -> bool:
    from huggingface_hub import get_session  # honours proxies

    try:
        answer = get_session().head(address, timeout=PROBE_SECONDS)
    except Exception:  # noqa: BLE001 - the client's errors differ between its versions; all mean no
        return False
    # A proxy that refuses answers too.
    return answer.status_code < 500 and answer.status_code not in (403, 407)


def _not_there(address: str, repo: str, token: str) -> str:
    return f"{address} shows no {repo}; where access is restricted, set {token}"


def _failed(address: str, error: BaseException) -> str:
    cause = str(error.__cause__ or error).splitlines() or [type(error).__name__]
    return f"{address}: {cause[0]}"


def _first_failure(error: Exception) -> BaseException:
    failures: Iterable[BaseException] = getattr(error, "failed_files", {}).values()
    return next(iter(failures), error)


def pull_from_any(hubs: Sequence[Hub], pull: Pull, on_bytes: OnBytes) -> None:
    """Fetch from the first hub that has everything. Raises CheckpointError with the errors of all."""
    said: list[str] = []
    for hub in hubs:
        try:
            return hub.pull(pull, on_bytes)
        except CheckpointError as error:
            said.append(str(error))
    raise CheckpointError("; ".join(said))
