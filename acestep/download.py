"""Gets published models from the hub into the checkpoints folder: `acestep-download`.

Owns which files are fetched, the check for disk space, progress in bytes, and the command. Knows nothing
of the server; `checkpoints` says what is published and whether it lies on disk whole. huggingface_hub is
imported late, because it reads its own environment variables when it is imported.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from acestep.checkpoints import DEFAULT_MODEL, MAIN_REPO, PUBLISHED, Checkpoint, Published, is_whole, require
from acestep.domain import ModelState
from acestep.errors import AceStepError, CheckpointError, SettingError
from acestep.settings import Settings, export_dotenv

# Code is never fetched, let alone run; the rest is for readers of the hub's web page.
_NEVER = ["*.py", "*.md", ".gitattributes"]
_PROBE_TIMEOUT = 4.0  # seconds; a start without network must not wait longer


@dataclass(frozen=True, slots=True)
class DownloadProgress:
    """How far a download is, in bytes. `total` is an estimate that grows if it proves too small."""

    name: str
    done: int
    total: int

    @property
    def fraction(self) -> float:
        """0..1."""
        return min(self.done / self.total, 1.0) if self.total else 0.0


OnProgress = Callable[[DownloadProgress], None]
OnLoading = Callable[[ModelState, str], None]


class Snapshot(Protocol):
    """The part of `huggingface_hub.snapshot_download` that is used here."""

    def __call__(
        self,
        repo_id: str,
        *,
        local_dir: Path,
        allow_patterns: list[str] | None,
        ignore_patterns: list[str],
        tqdm_class: Any,
    ) -> Any:
        """Fetch what matches into `local_dir`, leaving files that are there and whole."""
        ...


def hub_reachable() -> bool:
    """Whether the hub answers within seconds. Honours HF_ENDPOINT, HF_HUB_OFFLINE and proxy variables."""
    from huggingface_hub import constants, get_session

    try:
        answer = get_session().head(constants.ENDPOINT, timeout=_PROBE_TIMEOUT)
    except Exception:  # noqa: BLE001 - the client's errors differ between its versions; all mean no
        return False
    # A proxy that refuses answers too.
    return answer.status_code < 500 and answer.status_code not in (403, 407)


def fetch(
    name: str,
    checkpoints_dir: Path,
    on_progress: OnProgress | None = None,
    source: str = "auto",
    snapshot: Snapshot | None = None,
) -> None:
    """Bring `name`, and the parts that it needs beside it, into `checkpoints_dir` in the published layout.

    Blocks until all is there; files that are whole are not fetched again. `source` is
    ACESTEP_DOWNLOAD_SOURCE, `snapshot` stands in for huggingface_hub. `on_progress` may be called from any
    thread and may raise an AceStepError to stop. Raises CheckpointError with what to do.
    """
    if name not in PUBLISHED:
        raise CheckpointError(f"{name!r} is not published. Published are: {', '.join(PUBLISHED)}")
    if source == "modelscope":
        raise CheckpointError(
            "ACESTEP_DOWNLOAD_SOURCE=modelscope is not supported yet. Unset it to use Hugging Face, or copy "
            f"the model to {checkpoints_dir / name}"
        )
    published = PUBLISHED[name]
    if is_whole(published, checkpoints_dir):
        return
    parts = [part for part in published.needs if part is published or not is_whole(part, checkpoints_dir)]
    _check_space(name, parts, checkpoints_dir)
    tally = _Tally(name, sum(part.size - _finished(part, checkpoints_dir) for part in parts), on_progress)
    with _explained(name):
        snapshot = snapshot or _hub()
        bar = _byte_bar(tally)
        for repo, folder, patterns in _pulls(parts, checkpoints_dir):
            snapshot(repo, local_dir=folder, allow_patterns=patterns, ignore_patterns=_NEVER, tqdm_class=bar)
    if not is_whole(published, checkpoints_dir):
        # The hub's client returns without an error if it cannot connect but finds a folder.
        raise CheckpointError(f"{name} did not arrive whole; is the network up? {_resume(name)}")
    tally.finish()


def fetch_for_server(
    name: str, settings: Settings, on_loading: OnLoading, snapshot: Snapshot | None = None
) -> Checkpoint:
    """`fetch` a DiT for a server that waits for it, and return it; `on_loading` hears of every percent."""
    _fetch_telling(name, settings, on_loading, snapshot)
    return require(name, settings.checkpoints_dir)


def fetch_planner(
    name: str, settings: Settings, on_loading: OnLoading, snapshot: Snapshot | None = None
) -> Path:
    """`fetch` a planner likewise, and return its folder."""
    _fetch_telling(name, settings, on_loading, snapshot)
    return settings.checkpoints_dir / name


def _fetch_telling(name: str, settings: Settings, on_loading: OnLoading, snapshot: Snapshot | None) -> None:
    said = -1

    def report(progress: DownloadProgress) -> None:
        nonlocal said
        percent = int(100 * progress.fraction)
        if percent > said:
            said = percent
            on_loading("downloading", f"{percent} % of {progress.total / 1e9:.1f} GB")

    fetch(name, settings.checkpoints_dir, report, settings.download_source, snapshot)


def run(argv: Sequence[str] | None = None) -> int:
    """The command `acestep-download`. Exit codes: 0 done, 1 failed, 2 asked for something impossible."""
    arguments = _parse(argv)
    console = Console(stderr=True)
    try:
        settings = Settings.load(checkpoints_dir=arguments.dir and arguments.dir.absolute())
    except SettingError as error:
        console.print(str(error), markup=False, soft_wrap=True)
        return 2
    export_dotenv()
    if arguments.list:
        Console().print(_table(settings.checkpoints_dir))
        return 0
    for name in arguments.models or [DEFAULT_MODEL]:
        try:
            _fetch_with_bar(name, settings, console)
        except CheckpointError as error:
            console.print(str(error), markup=False, soft_wrap=True)
            return 1
        except KeyboardInterrupt:
            console.print(f"Stopped. {_resume(name)}", markup=False, soft_wrap=True)
            return 1
    return 0


def _pulls(parts: list[Published], into: Path) -> Iterator[tuple[str, Path, list[str] | None]]:
    """Repository, folder to put it in, and what to take of it (None: all)."""
    folders = [f"{part.name}/*" for part in parts if part.repo == MAIN_REPO]
    if folders:
        yield MAIN_REPO, into, folders
    for part in parts:
        if part.repo != MAIN_REPO:
            yield part.repo, into / part.name, None


class _Tally:
    """Adds up bytes over all files and repositories of one download."""

    def __init__(self, name: str, estimate: int, on_progress: OnProgress | None) -> None:
        self._name = name
        self._total = max(estimate, 1)
        self._on_progress = on_progress
        self._done = 0
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        with self._lock:
            self._done += count
            self._total = max(self._total, self._done)
            progress = DownloadProgress(self._name, self._done, self._total)
        if self._on_progress:
            self._on_progress(progress)

    def finish(self) -> None:
        self.add(self._total - self._done)


def _byte_bar(tally: _Tally) -> Any:
    """A progress bar class for huggingface_hub that draws nothing and counts bytes."""
    from huggingface_hub.utils.tqdm import tqdm

    class ByteBar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            # Other bars count files, or the same bytes on their way.
            self.counts = kwargs.get("name") == "huggingface_hub.snapshot_download"
            super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> None:
            if self.counts and n:
                tally.add(int(n))

    return ByteBar


def _hub() -> Snapshot:
    from huggingface_hub import constants, snapshot_download

    if constants.HF_HUB_OFFLINE:
        raise CheckpointError("HF_HUB_OFFLINE is set, so nothing can be downloaded. Unset it and try again.")
    return snapshot_download


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn whatever the hub's client raises into one sentence with what to do."""
    from huggingface_hub import constants
    from huggingface_hub.errors import RepositoryNotFoundError

    hub = constants.ENDPOINT
    try:
        yield
    except AceStepError:
        raise
    except RepositoryNotFoundError:  # also what it says if access is restricted
        raise CheckpointError(
            f"{hub} shows no {PUBLISHED[name].repo}. A mirror (HF_ENDPOINT) may lack it; where access is "
            "restricted, set HF_TOKEN."
        ) from None
    except Exception as error:  # its errors differ between its versions
        cause = str(error.__cause__ or error).splitlines() or [type(error).__name__]
        raise CheckpointError(
            f"{name} could not be downloaded from {hub}: {cause[0]}. Is the network up, and HTTPS_PROXY set "
            f"if you need one? {_resume(name)}"
        ) from error


def _resume(name: str) -> str:
    return f"Files that are whole are kept; `acestep-download {name}` gets the others."


def _check_space(name: str, parts: list[Published], into: Path) -> None:
    needed = sum(part.size - _finished(part, into) for part in parts)
    existing = next(folder for folder in (into, *into.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise CheckpointError(
            f"{name} needs about {needed / 1e9:.1f} GB more in {into}, where {free / 1e9:.1f} GB are free. "
            "Make room, or choose another folder with --dir or ACESTEP_CHECKPOINTS_DIR."
        )


def _finished(part: Published, into: Path) -> int:
    folder = into / part.name
    files = (path for path in folder.rglob("*") if path.is_file())
    whole = (path for path in files if ".cache" not in path.relative_to(folder).parts)
    return min(sum(path.stat().st_size for path in whole), part.size)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("acestep-download", description="Download ACE-Step models from the hub.")
    models = f"names as --list shows them (default: {DEFAULT_MODEL})"
    parser.add_argument("models", nargs="*", metavar="MODEL", help=models)
    parser.add_argument("--model", action="append", default=[], metavar="MODEL", help="the same, as a flag")
    parser.add_argument("--list", action="store_true", help="show what is published and what is here")
    parser.add_argument("--dir", type=Path, help="where models go (default: ACESTEP_CHECKPOINTS_DIR)")
    arguments = parser.parse_args(argv)
    arguments.models += arguments.model
    if strange := [name for name in arguments.models if name not in PUBLISHED]:
        parser.error(f"not published: {', '.join(strange)}; published are {', '.join(PUBLISHED)}")
    return arguments


def _table(checkpoints_dir: Path) -> Table:
    table = Table("Model", "Size", "Here", title=f"Published models, and what is in {checkpoints_dir}")
    for published in PUBLISHED.values():
        begun = "in part" if _finished(published, checkpoints_dir) else "no"
        state = "yes" if is_whole(published, checkpoints_dir) else begun
        table.add_row(published.name, f"{published.size / 1e9:.1f} GB", state)
    return table


def _fetch_with_bar(name: str, settings: Settings, console: Console) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=settings.disable_tqdm) as bar:
        task = bar.add_task(name, total=None)
        fetch(
            name,
            settings.checkpoints_dir,
            lambda progress: bar.update(task, completed=progress.done, total=progress.total),
            settings.download_source,
        )
    console.print(f"{name} is in {settings.checkpoints_dir}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(run())
