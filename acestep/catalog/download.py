"""Gets published models into the checkpoints folder: `acestep-download`."""

from __future__ import annotations

import argparse
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

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

from acestep.catalog.checkpoints import (
    DEFAULT_MODEL,
    MAIN_REPO,
    PUBLISHED,
    Published,
    is_whole,
    missing_files,
)
from acestep.catalog.hubs import Hub, Pull, hubs, is_offline, pull_from_any
from acestep.domain.models import ModelState
from acestep.errors import CheckpointError, SettingError
from acestep.settings.flags import named_as_flags
from acestep.settings.settings import Settings, export_dotenv


@dataclass(frozen=True, slots=True)
class DownloadProgress:
    """In bytes. `total` is an estimate that grows if it proves too small."""

    name: str
    done: int
    total: int

    @property
    def fraction(self) -> float:
        return min(self.done / self.total, 1.0) if self.total else 0.0


OnProgress = Callable[[DownloadProgress], None]
OnLoading = Callable[[ModelState, str], None]


@dataclass(frozen=True, slots=True)
class Order:
    """A published `name` to fetch into a folder, from the first of these hubs that has it.

    `alone` leaves out the shared parts that it needs, `again` compares existing files with the hub.
    """

    name: str
    into: Path
    hubs: Callable[[], Sequence[Hub]]
    alone: bool = False
    again: bool = False


def fetch(order: Order, on_progress: OnProgress | None = None) -> None:
    """Download a published model and the shared parts that it needs; complete files are kept.

    `on_progress` may be called from any thread and may raise an AceStepError to stop. Raises CheckpointError
    with a remedy.
    """
    name, into = order.name, order.into
    if name not in PUBLISHED:
        raise CheckpointError(f"{name!r} is not published. Published are: {', '.join(PUBLISHED)}")
    published = PUBLISHED[name]
    wanted = (published,) if order.alone else published.needs
    parts = [part for part in wanted if order.again or not _is_here(part, into)]
    if not parts:
        return
    _check_space(name, parts, into)
    if is_offline():
        raise CheckpointError("HF_HUB_OFFLINE is set, so nothing can be downloaded. Unset it and try again.")
    tally = _Tally(name, sum(part.size - _finished(part, into) for part in parts), on_progress)
    hubs = order.hubs()
    for pull in _pulls(parts, into):
        try:
            pull_from_any(hubs, pull, tally.add)
        except CheckpointError as error:
            raise CheckpointError(
                f"{name} could not be downloaded. {error}. Is the network up, and HTTPS_PROXY set if you "
                f"need one? {_resume(name)} Or copy it to {into / name}."
            ) from error
    if lost := [part.name for part in parts if not _is_here(part, into)]:
        # A client may return without an error if it cannot connect but finds a folder.
        raise CheckpointError(f"{', '.join(lost)} did not arrive whole; is the network up? {_resume(name)}")
    tally.finish()


def fetch_for_server(order: Order, on_loading: OnLoading, beat: Callable[[], None]) -> None:
    """`fetch` that calls `on_loading` with every percent, and `beat` with every bytes received."""
    said = -1

    def report(progress: DownloadProgress) -> None:
        nonlocal said
        beat()
        percent = int(100 * progress.fraction)
        if percent > said:
            said = percent
            on_loading("downloading", f"{percent} % of {progress.total / 1e9:.1f} GB")

    fetch(order, report)


def order_for(name: str, settings: Settings) -> Order:
    return Order(name, settings.checkpoints_dir, partial(hubs, settings.download_source))


def run(argv: Sequence[str] | None = None) -> int:
    """The command `acestep-download`. Exit codes: 0 done, 1 failed, 2 asked for something impossible."""
    arguments = _parse(argv)
    console = Console(stderr=True)
    given = {
        "checkpoints_dir": arguments.dir and arguments.dir.absolute(),
        "download_source": arguments.download_source,
    }
    try:
        settings = Settings.load(**given)
    except SettingError as error:
        text = named_as_flags(str(error), given, {"checkpoints_dir": "--dir"})
        console.print(text, markup=False, soft_wrap=True)
        return 2
    export_dotenv()
    if arguments.list:
        Console().print(_table(settings.checkpoints_dir))
        return 0
    sources = partial(hubs, settings.download_source, arguments.token)
    plain = Order("", settings.checkpoints_dir, sources, arguments.skip_main, arguments.force)
    for name in arguments.models or [DEFAULT_MODEL]:
        try:
            _fetch_with_bar(replace(plain, name=name), settings, console)
        except CheckpointError as error:
            console.print(str(error), markup=False, soft_wrap=True)
            return 1
        except KeyboardInterrupt:
            console.print(f"Stopped. {_resume(name)}", markup=False, soft_wrap=True)
            return 1
    return 0


def _is_here(part: Published, into: Path) -> bool:
    # Whether this folder is complete, without the shared parts.
    if part.kind != "dit" or part.layout == "diffusers":
        return is_whole(part, into)
    folder = into / part.name
    return not missing_files(folder) and (folder / "silence_latent.pt").is_file()


def _pulls(parts: list[Published], into: Path) -> Iterator[Pull]:
    folders = tuple(f"{part.name}/*" for part in parts if part.repo == MAIN_REPO)
    if folders:
        yield Pull(MAIN_REPO, into, folders)
    for part in parts:
        if part.repo != MAIN_REPO:
            yield Pull(part.repo, into / part.name)


class _Tally:
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
    parser.add_argument("--all", action="store_true", help="all that is published (about 85 GB)")
    parser.add_argument("--force", action="store_true", help="compare files that are here with the hub's too")
    parser.add_argument(
        "--skip-main", action="store_true", help="without the parts that a model needs beside it"
    )
    parser.add_argument("--token", help="for repositories that are not open to all")
    sources = "huggingface, modelscope, or auto: the first that answers (default: ACESTEP_DOWNLOAD_SOURCE)"
    parser.add_argument("--download-source", metavar="HUB", help=sources)
    parser.add_argument("--list", action="store_true", help="show what is published and what is here")
    parser.add_argument("--dir", type=Path, help="where models go (default: ACESTEP_CHECKPOINTS_DIR)")
    arguments = parser.parse_args(argv)
    arguments.models += [*arguments.model, *(PUBLISHED if arguments.all else ())]
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


def _fetch_with_bar(order: Order, settings: Settings, console: Console) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=settings.disable_tqdm) as bar:
        task = bar.add_task(order.name, total=None)
        fetch(order, lambda progress: bar.update(task, completed=progress.done, total=progress.total))
    console.print(f"{order.name} is in {order.into}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(run())
