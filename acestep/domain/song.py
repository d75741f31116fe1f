"""The nouns of the program: what travels from room to room, as frozen dataclasses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from acestep.domain.analysis import Analysis

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


TaskType = Literal["text2music", "cover", "repaint", "extract", "lego", "complete"]

AudioFormat = Literal["mp3", "wav", "wav32", "flac", "opus", "aac"]

InferMethod = Literal["ode", "sde"]

Integrator = Literal["euler", "heun"]

Goal = Literal["song", "codes", "metadata", "description"]

# The languages that the published models were trained on (ISO 639 codes, plus "unknown").
LANGUAGES: tuple[str, ...] = (
    *("ar", "az", "bg", "bn", "ca", "cs", "da", "de", "el", "en", "es", "fa", "fi", "fr", "he", "hi", "hr"),
    *("ht", "hu", "id", "is", "it", "ja", "ko", "la", "lt", "ms", "ne", "nl", "no", "pa", "pl", "pt", "ro"),
    *("ru", "sa", "sk", "sr", "sv", "sw", "ta", "te", "th", "tl", "tr", "uk", "ur", "vi", "yue", "zh"),
    "unknown",
)

MIN_BPM, MAX_BPM = 30, 300

TIME_SIGNATURES: tuple[str, ...] = ("2", "3", "4", "6")

MIN_DURATION, MAX_DURATION = 10.0, 600.0

MAX_BATCH = 8

MAX_ADAPTERS, MAX_ADAPTER_SCALE = 4, 2.0  # of one song

MAX_SEED = 2**32 - 1  # what a CPU torch.Generator and the original's clients both accept

CODES_A_SECOND = 5  # what the published planners write; a code stands for 0.2 s

MIN_CODES, MAX_CODES = int(MIN_DURATION) * CODES_A_SECOND, int(MAX_DURATION) * CODES_A_SECOND

# The parts of a song that the published base models were trained to tell apart.
TRACKS: tuple[str, ...] = (
    *("woodwinds", "brass", "fx", "synth", "strings", "percussion"),
    *("keyboard", "guitar", "bass", "drums", "backing_vocals", "vocals"),
)

CROSSFADE_FRAMES = 10  # as later versions of the original; 0.4 s at the published 25 frames a second

INSTRUMENTAL = "[Instrumental]"

_INSTRUMENTAL_WORDS = ("", "[inst]", "[instrumental]")


def is_instrumental(lyrics: str) -> bool:
    """Whether these lyrics mean that nobody sings."""
    return lyrics.strip().lower() in _INSTRUMENTAL_WORDS


@dataclass(frozen=True, slots=True)
class Tuning:
    """What may be changed of a render beyond what the models were published with, which are the defaults.

    `momentum` and `eta` (the share of the push along the prediction that is kept) are adaptive projected
    guidance's. `smoothing` is the share of a velocity that is the one before. The finished latents are
    multiplied by `latent_scale`, then `latent_shift` is added.
    """

    integrator: Integrator = "euler"
    momentum: float = -0.75
    eta: float = 0.0
    smoothing: float = 0.0
    latent_scale: float = 1.0
    latent_shift: float = 0.0


@dataclass(frozen=True, slots=True)
class SamplerOptions:
    """How to integrate from noise to music. None means: what the model recommends."""

    steps: int | None = None
    guidance_scale: float | None = None
    shift: float | None = None
    cfg_interval_start: float = 0.0
    cfg_interval_end: float = 1.0
    timesteps: tuple[float, ...] | None = None
    infer_method: InferMethod = "ode"
    use_adg: bool = False
    tuning: Tuning = field(default_factory=Tuning)


@dataclass(frozen=True, slots=True)
class PlannerOptions:
    """What the planner (the 5 Hz language model) is asked to do, and how it samples.

    `model` is the name of the one that was asked for; "", or one that cannot be had: the server's own.
    """

    thinking: bool = False
    sample_mode: bool = False
    sample_query: str = ""
    use_format: bool = False
    use_cot_caption: bool = True
    use_cot_language: bool = True
    temperature: float = 0.85
    guidance_scale: float = 2.5
    top_k: int | None = None
    top_p: float = 0.9
    repetition_penalty: float = 1.0
    negative_prompt: str = "NO USER INPUT"
    model: str = ""

    @property
    def wants_sample(self) -> bool:
        """Whether the planner invents the song."""
        return self.sample_mode or bool(self.sample_query.strip())

    @property
    def wants_draft(self) -> bool:
        """Whether the planner writes caption and lyrics before anything else."""
        return self.wants_sample or self.use_format


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """What a task works on beside words. None of it matters to a plain text2music.

    `source` is the path of the audio that is worked on and `reference` of the audio whose timbre is taken
    ("": none); `source_seconds` is the source's length, as soon as it is known. `start` and `end` bound what
    repaint and lego write, in seconds of the source: below 0 or past its end, the song grows (`end` None: the
    source's end). `cover_strength` is the share of the steps that follow the source or the codes,
    `noise_strength` how far a cover starts on the way from noise to its source. `injection` is the share of
    the steps after which what lies outside of the window is put back to the source. `tracks` are out of
    TRACKS. Edges of the window cross-fade over `crossfade_frames` of latents and `crossfade_seconds` of
    sound.
    """

    source: str = ""
    reference: str = ""
    source_seconds: float | None = None
    start: float = 0.0
    end: float | None = None
    cover_strength: float = 1.0
    noise_strength: float = 0.0
    injection: float = 0.0
    tracks: tuple[str, ...] = ()
    crossfade_frames: int = CROSSFADE_FRAMES
    crossfade_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class AnalysisOptions:
    """What else is wanted of each song; nothing, by default.

    `peaks` is a number of points (0: none), `stems` are tracks out of TRACKS, each to be a file of its own.
    """

    lyric_times: bool = False
    peaks: int = 0
    loudness: bool = False
    stems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AdapterUse:
    """An adapter (LoRA) that acts on a song, by its name in the adapters' folder; at scale 0 it does not."""

    name: str
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class SongRequest:
    """What one request asks for: `batch_size` songs from one caption and lyrics.

    `seeds` has one entry a song and is drawn when the request is accepted, so that a song that has
    to be rendered again (after a crash, say) is the same song. `duration` is in seconds. `warnings`
    are sentences for the client about what was clamped, ignored or replaced. `audio_codes` are the 5 Hz codes
    that the user brings along, in place of the planner's. `language_fixed`: the user named the language;
    otherwise a planner may choose another, and `language` is what holds where none does. A `goal` other than
    a song asks for a plan alone: the source's audio codes, the metadata of a song, or a description of the
    source. `adapters` are decided when the request is accepted, those of the server too.
    """

    caption: str = ""
    lyrics: str = ""
    language: str = "en"
    language_fixed: bool = False
    bpm: int | None = None
    key_scale: str | None = None
    time_signature: str | None = None
    duration: float | None = None
    batch_size: int | None = None
    seeds: tuple[int, ...] = ()
    model: str | None = None
    task_type: TaskType = "text2music"
    instruction: str | None = None
    audio_format: AudioFormat = "mp3"
    sampler: SamplerOptions = field(default_factory=SamplerOptions)
    planner: PlannerOptions = field(default_factory=PlannerOptions)
    audio_codes: tuple[int, ...] = ()
    warnings: tuple[str, ...] = ()
    task: TaskOptions = field(default_factory=TaskOptions)
    goal: Goal = "song"
    analysis: AnalysisOptions = field(default_factory=AnalysisOptions)
    adapters: tuple[AdapterUse, ...] = ()


@dataclass(frozen=True, slots=True)
class Metadata:
    """The facts of a song that a planner decides; None: not decided. `duration` in whole seconds."""

    bpm: int | None = None
    caption: str | None = None
    duration: int | None = None
    key_scale: str | None = None
    language: str | None = None
    time_signature: str | None = None


@dataclass(frozen=True, slots=True)
class Draft:
    """A song on paper: its facts and its lyrics."""

    metadata: Metadata
    lyrics: str


@dataclass(frozen=True, slots=True)
class DraftRequest:
    """What one call of the planner asks for, apart from any song.

    - "format": better caption and lyrics, from `caption` and `lyrics`;
    - "sample": a song from one sentence, `query`; `instrumental` None leaves that to the sentence;
    - "understand": what the song in the file `audio_path` is, or the one that `audio_codes` sketch.

    What `metadata` fixes is kept.
    """

    kind: Literal["format", "sample", "understand"]
    caption: str = ""
    lyrics: str = ""
    query: str = ""
    instrumental: bool | None = None
    metadata: Metadata = field(default_factory=Metadata)
    audio_path: str = ""
    audio_codes: tuple[int, ...] = ()
    options: PlannerOptions = field(default_factory=PlannerOptions)
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Sampling:
    """Decided sampler settings: every value concrete, valid for the model that runs.

    `cover_strength`, `noise_strength` and `injection` as in `TaskOptions`; 1, 0 and 0 where there is nothing
    to follow.
    """

    steps: int
    guidance_scale: float
    shift: float
    cfg_interval: tuple[float, float] = (0.0, 1.0)
    timesteps: tuple[float, ...] | None = None
    infer_method: InferMethod = "ode"
    use_adg: bool = False
    cover_strength: float = 1.0
    noise_strength: float = 0.0
    injection: float = 0.0
    tuning: Tuning = field(default_factory=Tuning)


@dataclass(frozen=True, slots=True)
class Window:
    """What is written anew; the rest of the song stays its source. Seconds of the song.

    The source lies from `source_start` to `source_end`: a song that grows has silence before or after it.
    The cross-fades (see `TaskOptions`) lie inside the window.
    """

    start: float
    end: float
    source_start: float
    source_end: float
    crossfade_frames: int = CROSSFADE_FRAMES
    crossfade_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class SongPlan:
    """One song with everything decided; what the synthesizer renders. `duration` in seconds.

    `audio_codes`, five a second, are what the planner (or the user) sketched; empty: made from words alone,
    or from the source of its task. `window` None: all of the song is written.
    """

    caption: str
    lyrics: str
    language: str
    duration: float
    seed: int
    instruction: str
    sampling: Sampling
    bpm: int | None = None
    key_scale: str | None = None
    time_signature: str | None = None
    audio_codes: tuple[int, ...] = ()
    task_type: TaskType = "text2music"
    window: Window | None = None
    adapters: tuple[AdapterUse, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class AudioClip:
    """Sound: `samples` is float32 `[channels, samples]` in -1..1 at `sample_rate` Hz."""

    samples: NDArray[np.float32]
    sample_rate: int

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return int(self.samples.shape[-1]) / self.sample_rate


@dataclass(frozen=True, slots=True)
class Song:
    """A finished song: a file in the audio store, and what was used to make it.

    `file` is the bare file name in the store ("" where the plan alone was asked for), `timings` seconds per
    stage.
    """

    file: str
    plan: SongPlan
    audio_format: AudioFormat
    dit_model: str
    lm_model: str = ""
    timings: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    analysis: Analysis = field(default_factory=Analysis)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a running job is: `fraction` 0..1, the stage's name, and a sentence for people."""

    fraction: float
    stage: str
    text: str = ""
