"""Make nano: compose and render music, learn it, write the folder that the server loads.

One command, `uv run --group training python -m training.nano.train`, rebuilds everything; it takes the
minutes that it is given (by default within two hours on two cores, rendering included) and shows how
far it is. Owns the optimisation loop; the data, the model and its files are the neighbours'.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import random
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from acestep.codec.sine_bank import SineBankConfig
from acestep.domain.song import HINTED_INSTRUCTION
from acestep.synthesizer.conditioning import caption_prompt, lyric_prompt
from training.nano.clock import Clock
from training.nano.codes import teach_codes
from training.nano.dataset import RAW, Clip, examples, measure_scale, plans
from training.nano.denoiser import Batch, Denoiser
from training.nano.model import train_tokenizer, write_folder
from training.nano.optimise import descend
from training.nano.pool import load_pool, render_pool
from training.nano.reading import Reader, teach_reading

HERE = Path(__file__).parent
SOUNDFONTS = (
    Path("/usr/share/sounds/sf2/FluidR3_GM.sf2"),
    Path("/usr/share/sounds/sf3/MuseScore_General_Lite.sf3"),
)
Crops = tuple[tuple[int, int, float], ...]


@dataclass(frozen=True, slots=True)
class Lesson:
    """A part of the learning: `share` of the time; `crops` are (frames, crops a batch, share of the batches).

    `time_mean` is that of the logit of the noise's share: the higher, the noisier.
    """

    share: float
    crops: Crops
    time_mean: float


# First the form: tempo and key can only be learned where the noise hides the music, and from many songs
# at once. Then the rest, mostly on short crops, for many steps; some long, since songs are long. A batch has
# about as many frames whichever it is, and a crop is whole patches and whole codes.
LESSONS = (
    Lesson(0.3, ((130, 20, 1.0),), 1.5),
    Lesson(0.7, ((250, 10, 0.6), (500, 5, 0.25), (750, 4, 0.15)), 0.4),
)
PEAK_RATE = 1.2e-3
WARMUP = 200  # steps
_EMA = 0.999
_SAVE_EVERY = 250  # steps


@dataclass(frozen=True, slots=True)
class Plan:
    """What the command line asks for."""

    minutes: float
    reading_minutes: float
    codes_minutes: float
    pieces: int
    work: Path
    out: Path
    resume: Path | None


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--minutes", type=float, default=90.0, help="time for learning (rendering comes on top)"
    )
    parser.add_argument("--reading-minutes", type=float, default=10.0, help="time for the text encoder alone")
    parser.add_argument("--codes-minutes", type=float, default=4.0, help="time for the audio tokenizer alone")
    parser.add_argument("--pieces", type=int, default=1000, help="pieces of 30 s to compose and render")
    parser.add_argument("--work", type=Path, default=HERE / "work", help="where rendered music is kept")
    parser.add_argument("--out", type=Path, default=HERE.parents[1] / "acestep/nano/weights")
    parser.add_argument("--resume", type=Path, default=None, help="a state file to go on from")
    run(Plan(**vars(parser.parse_args())))


def run(plan: Plan) -> None:
    """Render what is missing, learn for the given time, write the result."""
    torch.manual_seed(0)
    torch.set_flush_denormal(True)  # the optimiser's tails would slow a CPU down tenfold
    render_pool(plan.work / "pool", plan.pieces, SOUNDFONTS, processes=2)
    clips = load_pool(plan.work / "pool")
    scale = measure_scale(clips)
    rng = random.Random(0)
    texts = itertools.islice(plans(clips, rng), 4000)
    tokenizer = train_tokenizer(caption_prompt(text) for _, text in texts)
    model = Denoiser(scale)
    feed = Feed(clips, tokenizer, scale, rng)
    if plan.resume is None:
        reader = Reader(model.text_encoder, tokenizer, model.facts)
        teach_reading(reader, clips, Clock(plan.reading_minutes))
        teach_codes(model, lambda: feed.batch(LESSONS[-1].crops).latents, Clock(plan.codes_minutes))
    else:
        model.load_state_dict(torch.load(plan.resume, weights_only=True))
    average = learn(model, feed, plan)
    torch.save(average.state_dict(), plan.work / "state.pt")
    write_folder(plan.out, dict(average.named_children()), tokenizer, scale)


class Feed:
    """Batches of described music, as many as are asked for; all crops of a batch are of one length."""

    def __init__(
        self,
        clips: list[Clip],
        tokenizer: PreTrainedTokenizerFast,
        scale: SineBankConfig,
        rng: random.Random,
    ) -> None:
        self._clips = clips
        self._tokenizer = tokenizer
        self._scale = scale
        self._rng = rng

    def batch(self, crops: Crops) -> Batch:
        """The next batch, of one of `crops`."""
        frames, size, _ = self._rng.choices(crops, weights=[share for _, _, share in crops])[0]
        chosen = list(itertools.islice(examples(self._clips, frames, self._rng), size))
        texts = [caption_prompt(example.plan) for example in chosen]
        tokens = self._tokenizer(texts, padding=True, return_tensors="pt")
        # The lyrics are the same for all, so one row serves the batch.
        lyric = self._tokenizer([lyric_prompt(chosen[0].plan)], return_tensors="pt")
        latents = torch.stack([to_latents(example.decibels, self._scale) for example in chosen])
        hinted = torch.tensor([example.plan.instruction == HINTED_INSTRUCTION for example in chosen])
        pieces = tuple(example.piece for example in chosen)
        return Batch(
            tokens["input_ids"], tokens["attention_mask"], lyric["input_ids"], latents, hinted, pieces
        )


def to_latents(decibels: Tensor, scale: SineBankConfig) -> Tensor:
    """Raw decibels `[T, C]` to latents on the codec's scale."""
    tone, noise = decibels[:, : RAW.semitones], decibels[:, RAW.semitones :]
    tone = (tone - scale.tone_mean_db) / scale.tone_std_db
    return torch.cat([tone, (noise - scale.noise_mean_db) / scale.noise_std_db], dim=1)


def learn(model: Denoiser, feed: Feed, plan: Plan) -> Denoiser:
    """Run AdamW until the time is up; returns the running average of the weights."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    average = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    clock = Clock(plan.minutes)
    for step, done in clock.steps("learning"):
        lesson = _lesson(done)
        loss = model.loss(feed.batch(lesson.crops), lesson.time_mean, generator)
        told = descend(optimizer, loss, PEAK_RATE * _schedule(step, done))
        _follow(average, model, step)
        clock.show(told)
        if step % _SAVE_EVERY == _SAVE_EVERY - 1:
            torch.save(average.state_dict(), plan.work / "state.pt")
    return average


def _lesson(done: float) -> Lesson:
    ends = itertools.accumulate(lesson.share for lesson in LESSONS)
    return next((lesson for lesson, end in zip(LESSONS, ends, strict=True) if done < end), LESSONS[-1])


def _schedule(step: int, done: float) -> float:
    """Warm up over steps, stay, and go down linearly over the last 40 % of the time."""
    return min(1.0, (step + 1) / WARMUP) * min(1.0, max(0.02, (1.0 - done) / 0.4))


def _follow(average: Denoiser, model: Denoiser, step: int) -> None:
    keep = min(_EMA, (step + 1) / (step + 10))
    with torch.no_grad():
        for mean, current in zip(average.parameters(), model.parameters(), strict=True):
            mean.lerp_(current, 1 - keep)


if __name__ == "__main__":
    main()
