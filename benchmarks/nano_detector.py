"""Which instruments play: a small network on log-mel spectrograms, trained on rendered stems.

    uv run --group training python -m benchmarks.nano_detector [--work FOLDER] [--steps 800]

Rendered windows are kept in the work folder, so that a second run goes on. Mixtures are sums of the power of
stems, drawn anew at each step. The report is on pieces that were not trained on.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import soxr
import torch
from librosa.feature import melspectrogram
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from training.nano.music.composer import compose
from training.nano.music.instruments import INSTRUMENTS
from training.nano.music.piece import DRUMS, PERCUSSION, Piece, Wish
from training.nano.sound.mixing import SAMPLE_RATE
from training.nano.sound.store import Order, Rendered, render

LABELS = (*INSTRUMENTS, DRUMS)
WEIGHTS = Path(__file__).parent / "nano_detector.safetensors"
WORK = Path(__file__).parents[1] / "training/nano/work/detector"
_RATE, _FFT, _HOP, _BANDS = 24_000, 2048, 512, 80
FRAMES = 128  # 2.7 s
_FLOOR_DB = -70.0  # below the loudest band of a window
_SILENT = 1e-7  # mean power of a window in which nothing plays
PLAYS = 0.5  # for drums, and for what plays at all
# For an instrument that a prompt names, in a mix: 5 % of those that do not play lie above it.
NAMED = 0.2
_HELD_OUT = 2_000_000  # first seed of the pieces of the report
_RATE_PEAK = 3e-3
_BATCH = 48
_SAVE_EVERY = 50  # steps


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """Mel power `[bands, frames]` of one stem, and the label that it has."""

    power: NDArray[np.float32]
    label: int


class _Stateful(Protocol):
    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> object: ...


class Network(nn.Module):
    """Four convolutions, pooled over time; a logit for each label."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 20, 40, 64, 80)
        blocks: list[nn.Module] = []
        for number, (before, after) in enumerate(pairwise(widths)):
            stride = 1 if number else 2  # at full resolution the first layer took most of the time
            blocks += [nn.Conv2d(before, after, 3, stride, 1), nn.BatchNorm2d(after), nn.ReLU()]
            if number in (1, 2):
                blocks.append(nn.MaxPool2d(2))
        self.body = nn.Sequential(*blocks)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(2 * widths[-1] * (_BANDS // 8), len(LABELS))

    def forward(self, decibels: Tensor) -> Tensor:
        """Logits `[B, labels]` of windows `[B, bands, frames]`."""
        logits: Tensor = self.head(self.drop(self.embed(decibels)))
        return logits

    def embed(self, decibels: Tensor) -> Tensor:
        """What is known of each window before it is named, `[B, D]`."""
        hidden = self.body(decibels[:, None]).flatten(1, 2)
        return torch.cat([hidden.mean(dim=-1), hidden.amax(dim=-1)], dim=1)


def mel_power(sound: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mel power `[bands, frames]` of `[2, samples]` at 48 kHz."""
    mono = soxr.resample(sound.mean(axis=0), SAMPLE_RATE, _RATE)
    mel: NDArray[np.float32] = melspectrogram(
        y=mono, sr=_RATE, n_fft=_FFT, hop_length=_HOP, n_mels=_BANDS, fmin=30.0
    )
    return mel.astype(np.float32)


def decibels(power: Tensor) -> Tensor:
    """Log-mel `[B, bands, frames]`, each window's loudest band at 1, 70 dB below it at 0."""
    loudest = power.amax(dim=(1, 2), keepdim=True).clamp_min(1e-10)
    level = 10 * torch.log10((power / loudest).clamp_min(10 ** (_FLOOR_DB / 10)))
    return level / -_FLOOR_DB + 1


class Detector:
    """The trained network."""

    def __init__(self, network: Network) -> None:
        self._network = network.eval()

    @classmethod
    def load(cls, path: Path = WEIGHTS) -> Detector:
        network = Network()
        network.load_state_dict({name: value.float() for name, value in load_file(path).items()})
        return cls(network)

    @torch.no_grad()
    def probabilities(self, sound: NDArray[np.float32]) -> dict[str, float]:
        """How sure it is that each label plays in `[2, samples]`: mean of the surer half of the windows."""
        power = torch.from_numpy(mel_power(sound))
        if power.shape[1] < FRAMES:
            power = nn.functional.pad(power, (0, FRAMES - power.shape[1]))
        windows = power.unfold(1, FRAMES, FRAMES // 2).transpose(0, 1)
        windows = windows[windows.mean(dim=(1, 2)) > _SILENT]
        if not len(windows):
            return dict.fromkeys(LABELS, 0.0)
        found = torch.sigmoid(self._network(decibels(windows))).sort(dim=0, descending=True).values
        surer = found[: (len(found) + 1) // 2].mean(dim=0)
        return dict(zip(LABELS, surer.tolist(), strict=True))

    def playing(self, sound: NDArray[np.float32]) -> set[str]:
        """The labels that play."""
        return {label for label, sure in self.probabilities(sound).items() if sure > PLAYS}


def orders(first: int, solos: int, bands: int) -> list[Order]:
    """`solos` pieces of each instrument alone, and `bands` of several; half from each SoundFont."""
    wanted = [
        Order(first + number, 12.0, Wish(ensemble=(name,), drums=False), number % 2)
        for number, name in enumerate(name for name in INSTRUMENTS for _ in range(solos))
    ]
    alone = [Order(first + 5000 + number, 12.0, Wish(ensemble=()), number % 2) for number in range(2 * solos)]
    mixed = [Order(first + 6000 + number, 12.0, Wish(), number % 2) for number in range(bands)]
    return [*wanted, *alone, *mixed]


def windows_of(rendered: Rendered) -> list[Window]:
    """The windows in which each stem plays."""
    found = []
    for name, audio in rendered.stems.items():
        label = LABELS.index(DRUMS if name == PERCUSSION else name)
        power = mel_power(audio)
        for start in range(0, power.shape[1] - FRAMES + 1, FRAMES):
            window = power[:, start : start + FRAMES]
            if window.mean() > _SILENT:
                found.append(Window(window, label))
    return found


def gather(wanted: Sequence[Order], folder: Path) -> list[Window]:
    """The windows of all pieces, rendered where they are missing."""
    from training.nano.sound.synth import SOUNDFONTS, StemSynth

    folder.mkdir(parents=True, exist_ok=True)
    windows = []
    for font in (0, 1):
        missing = [order for order in wanted if order.font == font]
        missing = [order for order in missing if not (folder / f"{order.name}.npz").exists()]
        if not missing:
            continue
        with StemSynth(SOUNDFONTS[font]) as synth:
            for order in track(missing, f"rendering with SoundFont {font}"):
                made = windows_of(render(compose(order.seed, order.seconds, order.wish), synth))
                powers = np.array([window.power for window in made], dtype=np.float32)
                partial = folder / f"{order.name}.partial.npz"
                labels = np.array([window.label for window in made])
                np.savez(partial, powers=np.log10(powers + 1e-12).astype(np.float16), labels=labels)
                partial.rename(folder / f"{order.name}.npz")
    for order in wanted:
        with np.load(folder / f"{order.name}.npz") as kept:
            powers = 10 ** kept["powers"].astype(np.float32)
            windows += [
                Window(power, int(label)) for power, label in zip(powers, kept["labels"], strict=True)
            ]
    return windows


def batch(by_label: Sequence[Sequence[Window]], rng: random.Random) -> tuple[Tensor, Tensor]:
    """Windows of one to five labels summed, `[B, bands, frames]`, and the labels, `[B, labels]`."""
    power = torch.zeros(_BATCH, _BANDS, FRAMES)
    labels = torch.zeros(_BATCH, len(LABELS))
    drums = LABELS.index(DRUMS)
    for row in range(_BATCH):
        chosen = rng.sample(range(len(LABELS) - 1), rng.choice((1, 1, 2, 3, 4, 5)))
        chosen = [drums] if rng.random() < 0.04 else [*chosen, drums] if rng.random() < 0.4 else chosen
        for label in chosen:
            window = rng.choice(by_label[label]).power
            # Windows have the loudness of their stem; equal power would drown a flute's partials in a bass.
            gain = 10 ** (rng.uniform(-8, 4) / 10)
            power[row] += gain * torch.from_numpy(np.roll(window, rng.randrange(FRAMES), axis=1))
            labels[row, label] = 1.0
    return power, labels


def train(windows: Sequence[Window], steps: int, state: Path) -> Network:
    """Run AdamW for `steps` batches; what `state` holds of an interrupted run goes on."""
    torch.manual_seed(0)
    by_label = [[window for window in windows if window.label == label] for label in range(len(LABELS))]
    network = Network()
    optimizer = torch.optim.AdamW(network.parameters(), _RATE_PEAK, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE_PEAK, total_steps=steps)
    parts: dict[str, _Stateful] = {"network": network, "optimizer": optimizer, "schedule": schedule}
    done = 0
    if state.exists():
        kept = torch.load(state, weights_only=True)
        if kept["steps"] == steps:
            done = kept["done"]
            for name, part in parts.items():
                part.load_state_dict(kept[name])
    for step in track(range(done, steps), "learning"):
        power, labels = batch(by_label, random.Random(step))
        loss = nn.functional.binary_cross_entropy_with_logits(network(decibels(power)), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if (step + 1) % _SAVE_EVERY == 0:
            print(f"step {step + 1}, loss {loss.item():.3f}", flush=True)
            saved = {name: part.state_dict() for name, part in parts.items()}
            torch.save({**saved, "steps": steps, "done": step + 1}, state)
    return network


@dataclass(frozen=True, slots=True)
class Ceiling:
    """What the detector gets right on rendered pieces, as shares."""

    solo: float
    named: float
    mixed: float
    drums: float
    confused: tuple[tuple[tuple[str, str], int], ...]


def solo_is(probabilities: dict[str, float], name: str) -> bool:
    """Whether `name` is what plays, and drums do not, where it is not drums."""
    best = max(probabilities, key=lambda label: probabilities[label])
    return best == name and (name == DRUMS or probabilities[DRUMS] < PLAYS)


def report(detector: Detector, solos: int, bands: int) -> Ceiling:
    """Measure the detector on pieces that it was not trained on."""
    from training.nano.sound.synth import SOUNDFONTS, StemSynth

    confused: Counter[tuple[str, str]] = Counter()
    right: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    held_out = orders(_HELD_OUT, solos, bands)
    for font in (0, 1):
        with StemSynth(SOUNDFONTS[font]) as synth:
            for order in track([order for order in held_out if order.font == font], "measuring"):
                piece = compose(order.seed, order.seconds, order.wish)
                _count(piece, detector.probabilities(render(piece, synth).mix), (right, asked, confused))
    shares = {name: right[name] / max(1, asked[name]) for name in ("solo", "named", "mixed", "drums")}
    return Ceiling(**shares, confused=tuple(confused.most_common(20)))


def _count(
    piece: Piece, sure: dict[str, float], counts: tuple[Counter[str], Counter[str], Counter[tuple[str, str]]]
) -> None:
    right, asked, confused = counts
    facts = piece.facts
    asked["drums"] += 1
    right["drums"] += (sure[DRUMS] > PLAYS) == (facts.has_drums or facts.has_percussion)
    if facts.solo:
        asked["solo"] += 1
        right["solo"] += solo_is(sure, facts.solo)
        best = max(sure, key=lambda label: sure[label])
        if best != facts.solo:
            confused[facts.solo, best] += 1
        return
    heard = [sure[name] > NAMED for name in facts.instruments]
    asked["named"] += len(heard)
    right["named"] += sum(heard)
    asked["mixed"] += 1
    right["mixed"] += all(heard)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--work", type=Path, default=WORK, help="where rendered windows are kept")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--solos", type=int, default=10, help="pieces of each instrument alone")
    parser.add_argument("--bands", type=int, default=120)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    arguments = parser.parse_args()
    windows = gather(orders(0, arguments.solos, arguments.bands), arguments.work)
    network = train(windows, arguments.steps, arguments.work / "state.pt")
    save_file(
        {
            name: value.half() if value.is_floating_point() else value
            for name, value in network.state_dict().items()
        },
        arguments.out,
    )
    found = report(Detector.load(arguments.out), 3, 60)
    table = Table("", "share right")
    for name in ("solo", "named", "mixed", "drums"):
        table.add_row(name, f"{100 * getattr(found, name):.1f} %")
    Console().print(table)
    for (played, heard), count in found.confused:
        Console().print(f"{played} taken for {heard}: {count}")


if __name__ == "__main__":
    main()
