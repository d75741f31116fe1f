"""What the memory plan only counts, measured: memory, seconds a song, and the planner's pace, on a GPU.

    uv run python -m benchmarks.gpu [--budgets 24 12 8 6 4] [--seconds 240] [--planner acestep-5Hz-lm-1.7B]
        [--largest] [--quick] [--json FILE] [--toy]

Models of the published sizes with random weights are written to a temporary folder (10 GB; TMPDIR moves it).
For each budget the server's own functions plan, load and render, with a planner and without, while PyTorch is
kept from taking more than a card of that size would leave it. Loading is measured apart from work. Songs are
the plan's largest batch, though no more than two; with `--largest`, which takes longer, they are all that the
plan allows, and memory must come near what is planned. The planner's pace is held against reading once what a
token needs: the layers, and the head's rows of the audio codes. `--toy` is for trying it without a GPU.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from acestep.catalog.checkpoints import Choice, as_choice, require
from acestep.catalog.planner_choice import PlannerChoice
from acestep.device.oom import is_out_of_memory
from acestep.domain.song import Sampling, SongPlan
from acestep.engine.renderer import Renderer
from acestep.engine.torch_models import LoadContext, choose_device, load_model, load_planner
from acestep.errors import ModelUnavailableError, SettingError
from acestep.memory.configs import PLANNERS, TEXT_ENCODER, VAE, published_dit
from acestep.memory.decide import BUDGET, Decision, decide
from acestep.memory.plan import GB, Abilities, Device, MemoryPlan, Sizes, Wishes
from acestep.memory.search import Budget, options
from acestep.memory.sizes import Layer, QwenSize, VaeSize
from acestep.planner.backends.pt import TorchLanguageModel, load_torch_language_model
from acestep.planner.language_model import Generation, StepOutput
from acestep.server.configured_models import expect
from acestep.settings.settings import Settings
from acestep.weights.safetensors import LoadTarget
from acestep.weights.shared_modules import SharedModules
from benchmarks.gauge import Gauge, Used
from benchmarks.planner import song, write
from benchmarks.random_models import write_models

_DIT = "acestep-v15-turbo"
_BUDGETS, _QUICK = (24.0, 12.0, 8.0, 6.0, 4.0), (24.0, 8.0, 4.0)  # GB
_MOST_SONGS = 2
_WIDTH = 140  # of the tables, also where they go to a file
_SHORT = 10.0  # seconds of the song that is made before one is timed
_LM_BATCHES, _LM_CODES = (1, 8), 200
_LM_LENGTH = 2048  # tokens of a row of its cache
_LM_TARGET = 1.5  # times the floor
_LEFT = 64 * 2**20  # bytes: more in memory than before says that something was not let go of
_TOLD = 200  # letters of an error
_MOVING = ("offloaded", "streamed")
_BEFORE = 80  # tokens, more than a text begins with before its codes; timed are codes alone


@dataclass(frozen=True, slots=True)
class Run:
    """One budget in GB, with or without a planner. Sizes in bytes, `planned` with the reserve; times in s.

    `loading` and `working` are None on a CPU; of what failed, `trouble` alone is there.
    """

    budget: float
    planner: str
    trouble: str = ""
    planned: int = 0
    reserve: int = 0
    moved: tuple[str, ...] = ()
    batch: int = 0
    seconds: float = 0.0
    took: float = 0.0
    loading: Used | None = None
    working: Used | None = None
    left: int = 0

    @property
    def a_song(self) -> float:
        """Seconds that a song took."""
        return self.took / self.batch

    def against(self, other: Run) -> float:
        """How much longer a second of song took."""
        return (self.a_song / self.seconds) / (other.a_song / other.seconds)


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds that a token took while `batch` texts were written, and what reading the weights takes."""

    batch: int
    a_token: float
    floor: float


@dataclass(frozen=True, slots=True)
class Bench:
    """What is measured, and by what."""

    folder: Path
    sizes: Sizes
    device: torch.device
    gauge: Gauge
    seconds: float
    largest: bool = False  # songs are as many and as long as the plan allows

    @property
    def choice(self) -> Choice:
        """The DiT."""
        return as_choice(require(self.sizes.dits[0].name, self.folder))

    @property
    def planner(self) -> PlannerChoice:
        """The planner."""
        name = self.sizes.planners[0].name
        return PlannerChoice(name, self.folder / name)


def published(planner: str) -> Sizes:
    """Sizes of the published models."""
    planners = tuple(size for size in PLANNERS if size.name == planner)
    return Sizes((published_dit(_DIT, is_turbo=True),), TEXT_ENCODER, VAE, planners)


def toy(planner: str) -> Sizes:
    """As `published`, and small in every way."""
    layer, whole = Layer(32, 48, 4, 2, 8), published(planner)
    text = QwenSize("text", Layer(16, 24, 2, 1, 8), 2, 352)
    dit = replace(whole.dits[0], layer=layer, encoder=layer, layers=3, lyric_layers=2, timbre_layers=2)
    dit = replace(dit, channels=8, in_channels=24, text_width=16, fsq_width=32, window=8)
    lm = QwenSize(planner, Layer(32, 64, 4, 2, 16), 2, text.vocabulary + 100, longest=_LM_LENGTH)
    return Sizes((dit,), text, VaeSize(8, 8, 8, (1, 1, 1), (2, 4, 4)), (lm,))


def toy_budgets(sizes: Sizes) -> tuple[float, ...]:
    """A budget in GB for each way to place a toy, beginning with the largest."""
    able = Abilities(offload=True, stream=True, offload_planner=True)
    found: dict[tuple[str, ...], float] = {}
    for plan in options(sizes, Wishes(planner=True), Device(), able):
        found.setdefault(_moved(plan), plan.peak / GB)
    return tuple(found.values())


def runs(bench: Bench, budgets: Sequence[float]) -> Iterator[Run]:
    """With each budget, first with a planner."""
    bench.gauge.idle()
    for budget in budgets:
        for planner in (bench.planner, PlannerChoice()):
            run = _tried(bench, budget, planner)
            bench.gauge.limit(None)
            yield replace(run, left=bench.gauge.left())


def _tried(bench: Bench, budget: float, planner: PlannerChoice) -> Run:
    """A run, or what was in its way. Whatever it loaded is let go of when this returns."""
    none = Run(budget, planner.name)
    settings = Settings(init_llm=bool(planner.name), lora_dir=bench.folder / "none")
    there = Budget(int(budget * GB), True, BUDGET)
    try:
        decision = decide((bench.choice,), planner, settings, there)
    except (ModelUnavailableError, SettingError) as error:
        return replace(none, trouble=f"no plan: {error}")
    if decision is None:
        raise ValueError("the configs do not say how large the models are")
    try:
        return _run(bench, none, decision, planner)
    except (RuntimeError, MemoryError) as error:
        kind = "out of memory" if is_out_of_memory(error) else type(error).__name__
        told = " ".join([*getattr(error, "__notes__", ()), str(error).partition("\n")[0][:_TOLD]])
        return replace(none, trouble=f"{kind}, {decision.plan.peak / GB:.2f} GB were planned: {told}")


def _run(bench: Bench, run: Run, decision: Decision, planner: PlannerChoice) -> Run:
    plan, gauge, choice = decision.plan, bench.gauge, bench.choice
    reserve = decision.constraints.device.reserve
    assert choice.checkpoint is not None
    gauge.limit(int(run.budget * GB) - reserve)
    gauge.begin()
    shared, device = SharedModules(), str(bench.device)
    around = LoadContext(shared=shared, plan=plan)
    try:
        model = load_model(choice.checkpoint, device, decision.limited(expect(choice)), around).renderer
        lm = load_planner(planner.folder, device, "pt", around).model if planner.folder else None
    except RuntimeError as error:
        error.add_note("While loading:")
        raise
    loading = gauge.used()
    batch, seconds = plan.max_batch, plan.max_duration
    if not bench.largest:
        batch, seconds = min(batch, _MOST_SONGS), min(seconds, bench.seconds)
    gauge.begin()
    _make(model, choice, 1, min(_SHORT, seconds))
    if isinstance(lm, TorchLanguageModel):  # as many texts as it writes at once, before the songs are made
        write(lm, [song(lm, number, 50) for number in range(plan.sequences)])
    started = gauge.now()
    _make(model, choice, batch, seconds)
    took = gauge.now() - started
    return replace(
        run,
        planned=plan.peak,
        reserve=reserve,
        moved=_moved(plan),
        batch=batch,
        seconds=seconds,
        took=took,
        loading=loading,
        working=gauge.used(),
    )


def _make(model: Renderer, choice: Choice, batch: int, seconds: float) -> None:
    """Render and decode songs; what comes out must be sound."""
    usual = choice.defaults
    plan = SongPlan(
        caption="slow piano with strings and a soft voice",
        lyrics="[Verse]\n" + "over the hills and far away the river sings\n" * 8,
        language="en",
        duration=seconds,
        seed=1,
        instruction="Fill the audio semantic mask based on the given conditions:",
        sampling=Sampling(usual.steps, usual.guidance_scale, usual.shift),
    )
    plans = [replace(plan, seed=number) for number in range(batch)]
    for rendering in model.render(plans, lambda _done, _of: None, lambda: False):
        clip = model.decode(rendering, seconds, lambda _fraction: None)
        if not 0 < abs(clip.samples).max() < float("inf"):
            raise ValueError("what was rendered is silent, or no number: the random weights are no good")


def _moved(plan: MemoryPlan) -> tuple[str, ...]:
    ways = [(way, [part.name for part in plan.parts if part.placement == way]) for way in _MOVING]
    return tuple(f"{way}: {', '.join(names)}" for way, names in ways if names)


def paces(bench: Bench, bandwidth: float, codes: int) -> Iterator[Pace]:
    """How fast the planner writes so many codes, with guidance, at each batch."""
    dtype = torch.float32 if bench.device.type == "cpu" else torch.bfloat16
    assert bench.planner.folder is not None
    place = LoadTarget(bench.device, dtype)
    lm = load_torch_language_model(bench.planner.folder, place, max(_LM_BATCHES), _LM_LENGTH)
    size = bench.sizes.planners[0]
    read = size.trunk - (size.vocabulary - lm.vocabulary.code_count) * size.layer.width
    for batch in _LM_BATCHES:
        write(lm, [song(lm, number, 20) for number in range(batch)])
        songs = [song(lm, number, codes + 2 * _BEFORE) for number in range(batch)]
        took = _pace(bench.gauge, lm, songs, codes)
        yield Pace(batch, took, read * dtype.itemsize / bandwidth)


def _pace(gauge: Gauge, lm: TorchLanguageModel, songs: list[Generation], codes: int) -> float:
    """Seconds of a step that gives each text a code; counted are so many, once all texts write codes."""
    for each in songs:
        lm.add(each)
    while len(outputs := _stepped(lm)) < len(songs) or min(each.tokens for each in outputs) < _BEFORE:
        pass
    begin = gauge.now()
    for _ in range(codes):
        _stepped(lm)
    took = gauge.now() - begin
    while lm.step():
        pass
    return took / codes


def _stepped(lm: TorchLanguageModel) -> Sequence[StepOutput]:
    outputs = lm.step()
    if not outputs or any(output.ended for output in outputs):
        raise ValueError(f"a text ended before its time: {outputs}")
    return outputs


def memory_table(measured: list[Run]) -> Table:
    """Memory in GB, as planned and as it was."""
    columns = ("budget", "planner", "planned", "without reserve", "allocated", "reserved", "on the device")
    table = Table(*columns, "while loading", "left behind, MB", title="memory, GB (reserve: CUDA's own)")
    for run in measured:
        cells = [f"{run.budget:.4g}", _short(run.planner)]
        if run.trouble:
            table.add_row(*cells, run.trouble.partition(":")[0])  # all of it was told before
            continue
        sizes = [run.planned, run.planned - run.reserve]
        if run.working and run.loading:
            used = run.working
            sizes += [used.allocated, used.reserved, used.on_device, run.loading.allocated]
        shown = [f"{size / GB:.3f}" for size in sizes] + ["-"] * (6 - len(sizes))
        table.add_row(*cells, *shown, f"{run.left / 2**20:.0f}{'!' if run.left > _LEFT else ''}")
    return table


def _short(planner: str) -> str:
    return planner.removeprefix("acestep-5Hz-lm-") or "none"


def time_table(measured: list[Run]) -> Table:
    """Seconds a song, against the largest budget's."""
    columns = ("budget", "planner", "songs", "s of each", "s a song took", "of the largest's", "moved")
    table = Table(*columns, title="time")
    largest = max(run.budget for run in measured)
    bases = {run.planner: run for run in measured if run.budget == largest and not run.trouble}
    for run in measured:
        if run.trouble:
            continue
        base = bases.get(run.planner)
        ratio = f"{run.against(base):.2f}" if base else "-"
        cells = (f"{run.budget:.4g}", _short(run.planner), str(run.batch), f"{run.seconds:g}")
        table.add_row(*cells, f"{run.a_song:.2f}", ratio, "; ".join(run.moved) or "-")
    return table


def pace_table(measured: list[Pace], bandwidth: float) -> Table:
    """Milliseconds a token, against the floor."""
    title = f"planner, at {bandwidth / 1e9:.0f} GB/s (copies on the device); target {_LM_TARGET}"
    table = Table("texts", "ms a token", "floor", "ratio", title=title)
    for pace in measured:
        times = (f"{1000 * each:.3f}" for each in (pace.a_token, pace.floor))
        table.add_row(str(pace.batch), *times, f"{pace.a_token / pace.floor:.2f}")
    return table


def main() -> None:
    """Entry point."""
    flags = _parser().parse_args()
    if flags.toy:
        torch.set_num_threads(1)
    elif not torch.cuda.is_available():
        raise SystemExit("There is no CUDA device; --toy tries this at toy size on the CPU.")
    device, console = choose_device("cpu" if flags.toy else "cuda"), Console(width=_WIDTH)
    gauge, sizes = Gauge(device), (toy if flags.toy else published)(flags.planner)
    usual = toy_budgets(sizes) if flags.toy else _QUICK if flags.quick else _BUDGETS
    with tempfile.TemporaryDirectory() as name:
        started = gauge.now()
        write_models(Path(name), sizes, device)
        console.print(f"{gauge.name}: models written in {gauge.now() - started:.0f} s")
        seconds = flags.seconds or (_SHORT if flags.toy else 240.0)
        bench = Bench(Path(name), sizes, device, gauge, seconds, flags.largest)
        bandwidth = gauge.bandwidth()
        found: list[Run] = []
        for run in runs(bench, sorted(flags.budgets or usual, reverse=True)):
            # Told at once, lest what ends the program takes all along.
            outcome = run.trouble or f"{run.a_song:.2f} s a song"
            console.print(f"{run.budget:.4g} GB, planner {_short(run.planner)}: {outcome}")
            found.append(run)
        console.print(memory_table(found), time_table(found))
        _save(flags.json, gauge, bandwidth, found, [])
        lm = list(paces(bench, bandwidth, _LM_CODES))
        console.print(pace_table(lm, bandwidth))
        _save(flags.json, gauge, bandwidth, found, lm)


def _save(file: Path | None, gauge: Gauge, bandwidth: float, found: list[Run], lm: list[Pace]) -> None:
    """The figures as JSON, if a file is wanted."""
    if file is None:
        return
    figures = {
        "device": gauge.name,
        "bandwidth": bandwidth,
        "runs": [asdict(run) for run in found],
        "planner": [asdict(pace) for pace in lm],
    }
    file.write_text(json.dumps(figures, indent=1), encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--budgets", type=float, nargs="+", help="GB; the rest is held against the largest")
    parser.add_argument("--seconds", type=float, help="length of a song")
    parser.add_argument(
        "--planner", choices=[size.name for size in PLANNERS], default="acestep-5Hz-lm-1.7B", help="its size"
    )
    parser.add_argument("--largest", action="store_true", help="songs as many and as long as plans allow")
    parser.add_argument("--quick", action="store_true", help="fewer budgets")
    parser.add_argument("--toy", action="store_true", help="toy sizes on the CPU; no figure means anything")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    return parser


if __name__ == "__main__":
    main()
