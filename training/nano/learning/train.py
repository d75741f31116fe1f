"""Make nano: compose, render, encode, learn, and write the folder that the server loads.

    uv run --group training python -m training.nano.learning.train --work FOLDER --out FOLDER

A run that is interrupted goes on with the same command; a stage that is done is not done again.
"""

from __future__ import annotations

import argparse
import copy
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast

from acestep.codec.tone_noise import ToneNoiseConfig
from acestep.synthesizer.conditioning import caption_prompt
from training.nano.learning import pool
from training.nano.learning.denoiser import Denoiser
from training.nano.learning.examples import Group, Shelf, scale_of
from training.nano.learning.lessons import School, make_codes, make_music, quicken, read
from training.nano.learning.network import DISTILLED, GUIDED, train_tokenizer, write_folder
from training.nano.orders import Family, families, orders
from training.nano.sound.store import Store, fill

HERE = Path(__file__).parents[1]
_TEXTS = 4_000  # that the tokenizer is made from


@dataclass(frozen=True, slots=True)
class Plan:
    """What the command line asks for; times are in minutes of computing."""

    free: int
    solos: int
    reading: float
    codes: float
    learning: float
    turbo: float
    work: Path
    out: Path
    processes: int
    render: bool


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--free", type=int, default=1_000, help="pieces of the composer's choice")
    parser.add_argument("--solos", type=int, default=12, help="solos of each instrument")
    parser.add_argument("--reading", type=float, default=12.0, help="minutes for the text encoder alone")
    parser.add_argument("--codes", type=float, default=8.0, help="minutes for the audio tokenizer alone")
    parser.add_argument("--learning", type=float, default=100.0, help="minutes for the denoiser")
    parser.add_argument("--turbo", type=float, default=30.0, help="minutes for the distillation; 0 for none")
    parser.add_argument("--work", type=Path, default=HERE / "work", help="where music and states are kept")
    parser.add_argument("--out", type=Path, default=HERE.parents[1] / "acestep/nano/weights")
    parser.add_argument("--processes", type=int, default=2, help="that render and encode at a time")
    parser.add_argument(
        "--no-render", dest="render", action="store_false", help="take the pieces that are encoded already"
    )
    run(Plan(**vars(parser.parse_args())))


def run(plan: Plan) -> None:
    """Do what is missing, write the result."""
    torch.manual_seed(0)
    torch.set_flush_denormal(True)  # the optimiser's tails would slow a CPU down tenfold
    chosen = list(families(plan.free, plan.solos))
    if plan.render:
        store = Store(plan.work / "pieces")
        fill(store, orders(chosen), plan.processes)
        pool.code_all(plan.work / "latents", store, chosen, plan.processes)
    groups = load_groups(plan.work / "latents", chosen)
    scale = _scale(plan.work / "scale", groups)
    shelf = Shelf(groups, scale)
    tokenizer = _tokenizer(plan.work / "tokenizer", shelf)
    school = School(Denoiser(scale), shelf, tokenizer, plan.work)
    read(school, plan.reading)
    make_codes(school, plan.codes)
    average = copy.deepcopy(school.model)
    make_music(school, average, plan.learning)
    defaults: Mapping[str, float] = GUIDED
    if plan.turbo:
        teacher = copy.deepcopy(average)
        school.model.load_state_dict(average.state_dict())
        quicken(school, teacher, average, plan.turbo)
        defaults = DISTILLED
    write_folder(plan.out, dict(average.named_children()), tokenizer, scale, defaults)


def load_groups(folder: Path, chosen: Sequence[Family]) -> list[Group]:
    """The families that are encoded whole."""
    return [
        Group(
            pool.load(folder, family.own),
            pool.load(folder, family.cover) if family.cover else None,
            pool.load(folder, family.reference) if family.reference else None,
        )
        for family in chosen
        if pool.has(folder, family)
    ]


# Both are kept, since what was learned with them is worth nothing with others.
def _scale(folder: Path, groups: Sequence[Group]) -> ToneNoiseConfig:
    if not folder.exists():
        scale_of([group.own for group in groups]).write(folder)
    return ToneNoiseConfig.read(folder)


def _tokenizer(folder: Path, shelf: Shelf) -> PreTrainedTokenizerFast:
    if not folder.exists():
        rng = random.Random(0)
        texts = (caption_prompt(shelf.example(250, rng).plan) for _ in range(_TEXTS))
        train_tokenizer(texts).save_pretrained(folder)
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder)
    return tokenizer


if __name__ == "__main__":
    main()
