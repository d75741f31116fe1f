"""Reads the parity fixture: calls of the original model code, and what it computed."""

import json
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from acestep.domain.latents import SourceLatents
from acestep.domain.song import Sampling, SongPlan, TaskType, Tuning, Window
from acestep.synthesizer.conditioning import metas

_BESIDE_CHECKOUT = Path(__file__).parents[3] / "shared" / "parity"
FOLDER = Path(os.environ.get("ACESTEP_PARITY_DIR") or _BESIDE_CHECKOUT)
MISSING = f"no parity fixture at {FOLDER}; set ACESTEP_PARITY_DIR to its folder"

TEXT_ENCODER = FOLDER / "Qwen3-Embedding-0.6B"
VAE = FOLDER / "vae"

# The original's defaults.
_TURBO_DEFAULTS = {"infer_steps": 8, "shift": 3.0}
_BASE_DEFAULTS = {"infer_steps": 50, "shift": 1.0}

_TASKS: dict[str, TaskType] = {"cover": "cover", "repaint": "repaint"}  # by how a case's name begins

_METAS = re.compile(
    r"- bpm: (?P<bpm>.+)\n- timesignature: (?P<time_signature>.+)\n- keyscale: (?P<key_scale>.+)\n"
    r"- duration: (?P<duration>\d+) seconds\n"
)


@dataclass(frozen=True)
class Case:
    """One run of the original: the plans of its songs, and the tensors that went in and came out."""

    dit: Path
    plans: tuple[SongPlan, ...]
    expected: dict[str, Tensor]

    @property
    def frame_rate(self) -> float:
        """Latent frames a second: the codec's, unless the prompt names another length than was rendered."""
        return self.expected["noise"].shape[1] / self.plans[0].duration

    @property
    def sources(self) -> list[SourceLatents]:
        """The latents that each song is made from, as far as its task takes any."""
        tensors = self.expected
        return [
            SourceLatents(
                source=None if plan.task_type == "text2music" else tensors["src"][song],
                reference=tensors["ref"][song] if plan.task_type == "repaint" else None,
            )
            for song, plan in enumerate(self.plans)
        ]


def read_case(variant: str, name: str) -> Case:
    asked = json.loads((FOLDER / "cases.json").read_text(encoding="utf-8"))[f"{variant}.{name}"]
    defaults = _TURBO_DEFAULTS if variant == "turbo" else _BASE_DEFAULTS
    sampling = _sampling({**defaults, **asked})
    plans = tuple(_plan(asked, song, sampling) for song in range(len(asked["prompts"])))
    if name == "codes":
        codes = tuple(read_expected(f"{variant}.detokenize")["indices"].flatten().tolist())
        plans = tuple(replace(plan, audio_codes=codes) for plan in plans)
    expected = read_expected(f"{variant}.{name}")
    task = _TASKS.get(name.partition("_")[0], "text2music")
    plans = tuple(
        replace(plan, task_type=task, window=_window(plan, expected["mask"][song]))
        for song, plan in enumerate(plans)
    )
    return Case(FOLDER / f"acestep-v15-{variant}", plans, expected)


def read_expected(name: str) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = load_file(FOLDER / f"expected.{name}.safetensors")
    return tensors


def relative_error(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def _sampling(asked: dict[str, Any]) -> Sampling:
    return Sampling(
        steps=asked["infer_steps"],
        guidance_scale=asked.get("diffusion_guidance_sale", 1.0),
        shift=asked["shift"],
        cfg_interval=(asked.get("cfg_interval_start", 0.0), asked.get("cfg_interval_end", 1.0)),
        timesteps=_timesteps(asked.get("timesteps")),
        tuning=Tuning(guidance="adg") if asked.get("use_adg") else Tuning(),
        cover_strength=asked.get("audio_cover_strength", 1.0),
    )


def _timesteps(asked: list[float] | None) -> tuple[float, ...] | None:
    """Without the zeros at the end, which `acestep.limits` drops in a request."""
    return tuple(t for t in asked if t > 0.0) if asked else None


def _window(plan: SongPlan, mask: Tensor) -> Window | None:
    """The window that a chunk mask `[T, M]` was made from; None where all is written."""
    frames = mask[:, 0].nonzero().flatten()
    if len(frames) == len(mask):
        return None
    seconds = plan.duration / len(mask)
    return Window(float(frames[0]) * seconds, float(frames[-1] + 1) * seconds, 0.0, plan.duration)


def _plan(asked: dict[str, Any], song: int, sampling: Sampling) -> SongPlan:
    """A plan whose metas are the case's string, letter by letter."""
    ready_made = asked["metas"][song]
    facts = _METAS.fullmatch(ready_made)
    assert facts is not None, f"metas of an unknown form: {ready_made!r}"
    decided = {key: None if value == "N/A" else value for key, value in facts.groupdict().items()}
    stated, rendered = float(facts["duration"]), float(asked["seconds"])
    plan = SongPlan(
        caption=asked["prompts"][song],
        lyrics=asked["lyrics"][song],
        language=asked["languages"][song],
        duration=rendered if int(rendered) == stated else stated,
        seed=asked["seeds"][song],
        instruction=asked["instruction"],
        sampling=sampling,
        bpm=int(decided["bpm"]) if decided["bpm"] else None,
        key_scale=decided["key_scale"],
        time_signature=decided["time_signature"],
    )
    assert metas(plan) == ready_made
    return plan
