"""What nano learns, one after the other: to read, to make codes, to make music, to make it in few steps.

What a step draws depends on its number alone, so that a run that goes on is the run that was not interrupted.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from acestep.synthesizer.conditioning import caption_prompt
from acestep.synthesizer.sampler import shifted_timesteps
from training.nano.codes import quantized
from training.nano.learning.denoiser import Batch, Denoiser, collate
from training.nano.learning.examples import Shelf
from training.nano.learning.network import DISTILLED, GUIDED
from training.nano.learning.stages import Stage
from training.nano.optimise import descend

Shapes = tuple[tuple[int, int, float], ...]  # (frames, songs, share of the batches)

# Lengths that pieces have, so that whole ones are among them; all batches have about as many frames.
SHORT: Shapes = ((250, 10, 0.5), (300, 8, 0.5))
ALL: Shapes = (
    *((250, 10, 0.2), (300, 8, 0.15), (350, 7, 0.1), (400, 6, 0.1), (500, 5, 0.2)),
    *((750, 3, 0.13), (1125, 2, 0.07), (1500, 2, 0.05)),
)
# First the form: tempo and key can only be learned where noise hides the music, and from many songs at once.
_FORM_SHARE = 0.25  # of the time
_FORM_TIME, _TIME = 1.5, 0.4  # means of the logit of the noise's share
_EMA = 0.999
_RATES = {"reading": 1.5e-3, "codes": 1.5e-3, "learning": 1.2e-3, "turbo": 3e-4}
_READ = 40  # prompts a batch
_TEACHER_STEPS = 2  # for each step of the student


@dataclass(frozen=True, slots=True, eq=False)
class School:
    """What all lessons need."""

    model: Denoiser
    shelf: Shelf
    tokenizer: PreTrainedTokenizerFast
    folder: Path

    def batch(self, shapes: Shapes, seed: int) -> Batch:
        rng = random.Random(seed)
        frames, size, _ = rng.choices(shapes, weights=[share for _, _, share in shapes])[0]
        examples = [self.shelf.example(frames, rng) for _ in range(size)]
        return collate(examples, self.tokenizer, self.model.silence)

    def stage(self, name: str, minutes: float, **parts: nn.Module | torch.optim.Optimizer) -> Stage:
        return Stage(name, minutes, self.folder / f"{name}.pt", parts)


def read(school: School, minutes: float) -> None:
    """Teach the text encoder to read, before it is asked to guide music."""
    encoder, heads = school.model.text_encoder, school.model.facts
    optimizer = _adam([encoder, heads], "reading")
    stage = school.stage("reading", minutes, encoder=encoder, heads=heads, optimizer=optimizer)
    for step, done in stage.steps():
        rng = random.Random(1_000_000 + step)
        examples = [school.shelf.example(250, rng, "text2music") for _ in range(_READ)]
        texts = [caption_prompt(each.plan) for each in examples]
        tokens = school.tokenizer(texts, padding=True, return_tensors="pt")
        ids, mask = tokens["input_ids"], tokens["attention_mask"]
        states = encoder(ids, mask).last_hidden_state
        loss = heads.loss(states, mask, [each.facts for each in examples])
        stage.show(descend(optimizer, loss, _rate("reading", step, done, 1.0)))


def make_codes(school: School, minutes: float) -> None:
    """Teach the audio tokenizer and detokenizer, which are frozen afterwards."""
    model = school.model
    tokenizer, detokenizer = model.networks.tokenizer, model.networks.detokenizer
    optimizer = _adam([tokenizer, detokenizer], "codes")
    stage = school.stage("codes", minutes, tokenizer=tokenizer, detokenizer=detokenizer, optimizer=optimizer)
    for step, done in stage.steps():
        rng = random.Random(2_000_000 + step)
        latents = torch.stack([school.shelf.example(250, rng, "text2music").target for _ in range(12)])
        decoded = detokenizer(quantized(tokenizer, latents))
        loss = ((decoded - latents).square() * model.weight).mean()
        stage.show(descend(optimizer, loss, _rate("codes", step, done, 1.0)))
    tokenizer.requires_grad_(False)
    detokenizer.requires_grad_(False)


def make_music(school: School, average: Denoiser, minutes: float) -> None:
    """Teach the denoiser; `average` becomes the running mean of its weights."""
    model = school.model
    optimizer = _adam([model], "learning")
    stage = school.stage("learning", minutes, model=model, average=average, optimizer=optimizer)
    for step, done in stage.steps():
        shapes, time_mean = (SHORT, _FORM_TIME) if done < _FORM_SHARE else (ALL, _TIME)
        batch = school.batch(shapes, 3_000_000 + step)
        loss = model.loss(batch, time_mean, torch.Generator().manual_seed(step))
        stage.show(descend(optimizer, loss, _rate("learning", step, done, 0.4)))
        _follow(average, model, step)


def quicken(school: School, teacher: Denoiser, average: Denoiser, minutes: float) -> None:
    """Teach the model to go in one step, without guidance, as far as its guided `teacher` goes in two.

    Progressive distillation (Salimans and Ho, 2022), from music under noise, at the times that are served.
    """
    student = school.model
    optimizer = _adam([student.networks.decoder, student.networks.encoder], "turbo")
    stage = school.stage("turbo", minutes, model=student, average=average, optimizer=optimizer)
    times = torch.tensor(shifted_timesteps(int(DISTILLED["steps"]), DISTILLED["shift"]))
    for step, done in stage.steps():
        batch = school.batch(ALL, 4_000_000 + step)
        generator = torch.Generator().manual_seed(step)
        place = torch.randint(len(times) - 1, (len(batch.targets),), generator=generator)
        start, end = times[place], times[place + 1]
        noise = torch.randn(batch.targets.shape, generator=generator)
        noisy = torch.lerp(batch.targets, noise, start[:, None, None])
        wanted = (noisy - _guided(teacher, batch, noisy, (start, end))) / (start - end)[:, None, None]
        with torch.no_grad():
            text = student.read(batch)
        states, seen = student.condition(batch, text)
        velocity, _ = student.run(noisy, start, student.cache(batch, states, seen))
        loss = ((velocity - wanted).square() * student.weight).mean()
        stage.show(descend(optimizer, loss, _rate("turbo", step, done, 0.6)))
        _follow(average, student, step)


@torch.no_grad()
def _guided(teacher: Denoiser, batch: Batch, noisy: Tensor, span: tuple[Tensor, Tensor]) -> Tensor:
    """Where the guided teacher comes from `noisy` between two times of each song."""
    condition = teacher.cache(batch, *teacher.condition(batch, teacher.read(batch)))
    null = teacher.cache(batch, *teacher.null(batch))
    start, end = span
    x = noisy
    for number in range(_TEACHER_STEPS):
        time = start + (end - start) * number / _TEACHER_STEPS
        with_words, without = (teacher.run(x, time, cache)[0] for cache in (condition, null))
        velocity = without + GUIDED["guidance_scale"] * (with_words - without)
        x = x + velocity * ((end - start) / _TEACHER_STEPS)[:, None, None]
    return x


def _adam(modules: list[nn.Module], name: str) -> torch.optim.AdamW:
    weights = [weight for module in modules for weight in module.parameters() if weight.requires_grad]
    return torch.optim.AdamW(weights, _RATES[name], betas=(0.9, 0.98), weight_decay=0.01, fused=True)


def _rate(name: str, step: int, done: float, falling: float) -> float:
    """Warm up over 150 steps, stay, and go down linearly over the last share of the time."""
    return _RATES[name] * min(1.0, (step + 1) / 150) * min(1.0, max(0.02, (1.0 - done) / falling))


def _follow(average: nn.Module, model: nn.Module, step: int) -> None:
    keep = min(_EMA, (step + 1) / (step + 10))
    with torch.no_grad():
        for mean, current in zip(average.parameters(), model.parameters(), strict=True):
            mean.lerp_(current, 1 - keep)
