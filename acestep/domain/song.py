"""Songs, from what a request asks for to the finished file."""

from __future__ import annotations

from collections.abc import Sequence
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

Guidance = Literal["apg_classic", "cfg", "adg", "adg_w_norm", "adg_wo_clip"]

Bands = Literal["low", "high", "double", "pix"]

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

MP3_BITRATES, MP3_SAMPLE_RATES = (128, 160, 192, 224, 256, 320), (32_000, 44_100, 48_000)

MAX_SEED = 2**32 - 1  # what a CPU torch.Generator and the original's clients both accept

CODES_A_SECOND = 5  # what the published planners write; a code stands for 0.2 s

MIN_CODES, MAX_CODES = int(MIN_DURATION) * CODES_A_SECOND, int(MAX_DURATION) * CODES_A_SECOND

# The parts of a song that the published base models were trained to tell apart.
TRACKS: tuple[str, ...] = (
    *("woodwinds", "brass", "fx", "synth", "strings", "percussion"),
    *("keyboard", "guitar", "bass", "drums", "backing_vocals", "vocals"),
)

PEAK_DB = -1.0  # the published models are meant to be heard with their peak at this level

CROSSFADE_FRAMES = 10  # as later versions of the original; 0.4 s at the published 25 frames a second

INSTRUMENTAL = "[Instrumental]"

_INSTRUMENTAL_WORDS = ("", "[inst]", "[instrumental]")


def is_instrumental(lyrics: str) -> bool:
    return lyrics.strip().lower() in _INSTRUMENTAL_WORDS


HINTED_INSTRUCTION = "Generate audio semantic tokens based on the given conditions:"  # covers, and codes
TEXT2MUSIC_INSTRUCTION = "Fill the audio semantic mask based on the given conditions:"
REPAINT_INSTRUCTION = "Repaint the mask area based on the given conditions:"


def instruction(task_type: TaskType, tracks: Sequence[str] = (), *, hinted: bool = False) -> str:
    """What the published weights were trained to read for a task; `hinted` is text2music with codes."""
    named = " | ".join(track.upper() for track in tracks)
    one = f" {named}" if named else ""
    return {
        "text2music": HINTED_INSTRUCTION if hinted else TEXT2MUSIC_INSTRUCTION,
        "cover": HINTED_INSTRUCTION,
        "repaint": REPAINT_INSTRUCTION,
        "extract": f"Extract the{one} track from the audio:",
        "lego": f"Generate the{one} track based on the audio context:",
        "complete": f"Complete the input track with {named}:" if named else "Complete the input track:",
    }[task_type]


@dataclass(frozen=True, slots=True)
class WaveletCorrection:
    """DCW: after each step, each band of the latents moves away from that of the predicted data."""

    bands: Bands = "double"  # pix: all at once, without wavelets
    scale: float = 0.05  # of the low band, or of the only one
    high_scale: float = 0.02  # of the high band where both are corrected


@dataclass(frozen=True, slots=True)
class Tuning:
    """Sampler settings whose defaults are what the models were published with."""

    integrator: Integrator = "euler"
    guidance: Guidance = "apg_classic"
    momentum: float = -0.75  # of adaptive projected guidance
    eta: float = 0.0  # share of that guidance along the prediction that is kept
    norm_limit: float = 2.5  # of that guidance, over time; 0: none
    angle_limit: float | None = None  # radians, of angle-based guidance; None: that of its variant
    velocity_limit: float = 0.0  # of a velocity's norm, as a multiple of the latents'; 0: none
    smoothing: float = 0.0  # share of the velocity before in each velocity
    correction: WaveletCorrection | None = None
    latent_scale: float = 1.0  # multiplies the finished latents
    latent_shift: float = 0.0  # is added after that


@dataclass(frozen=True, slots=True)
class SamplerOptions:
    """None: the default of the model."""

    steps: int | None = None
    guidance_scale: float | None = None
    shift: float | None = None
    cfg_interval_start: float = 0.0
    cfg_interval_end: float = 1.0
    timesteps: tuple[float, ...] | None = None
    infer_method: InferMethod = "ode"
    tuning: Tuning = field(default_factory=Tuning)


@dataclass(frozen=True, slots=True)
class PlannerOptions:
    """What the planner (the 5 Hz language model) is asked to do, and how it samples."""

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
    model: str = ""  # name of the planner; "", or one that cannot be used: the server's own

    @property
    def wants_sample(self) -> bool:
        return self.sample_mode or bool(self.sample_query.strip())

    @property
    def wants_draft(self) -> bool:
        """Whether the planner writes caption and lyrics before anything else."""
        return self.wants_sample or self.use_format


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """What a task works on besides words; a plain text2music uses none of it."""

    source: str = ""  # path of the audio that the task works on; "": none
    reference: str = ""  # path of the audio that gives the timbre; "": none
    source_seconds: float | None = None  # None: not known yet
    # What repaint and lego write, in seconds of the source. Below 0 or past its end, the song grows.
    start: float = 0.0
    end: float | None = None  # None: the end of the source
    cover_strength: float = 1.0  # share of the steps that follow the source or the codes
    noise_strength: float = 0.0  # how far a cover starts on the way from noise to its source
    injection: float = 0.0  # share of the steps after which the source is put back outside of the window
    tracks: tuple[str, ...] = ()  # out of TRACKS
    rest: str = ""  # extract: the name for what the tracks leave of the source; "": one track is all
    crossfade_frames: int = CROSSFADE_FRAMES  # of latents, at the edges of the window
    crossfade_seconds: float = 0.0  # of sound, there
    follows_latents: bool = False  # a cover follows the latents of its source, not its audio codes
    may_change_length: bool = False  # a cover need not be as long as its source
    morph: Morph | None = None  # of a cover
    source_caption: str = ""  # what a morph begins with
    source_lyrics: str = ""


@dataclass(frozen=True, slots=True)
class Morph:
    """FlowEdit: a source is led from its own words to others while the time is between `start` and `end`.

    From `end` on, the song is sampled as any other.
    """

    start: float = 1.0
    end: float = 0.0
    averages: int = 1  # noises that each step averages over


@dataclass(frozen=True, slots=True)
class Retake:
    """Noise of another seed in that of a song: `variance` 0 leaves the song as it is, 1 makes it another."""

    seed: int
    variance: float


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """How a finished song is put into its file, beside the format."""

    peak_db: float | None = PEAK_DB  # dBFS of the loudest sample; None: as the model made it
    fade_in: float = 0.0  # seconds
    fade_out: float = 0.0
    mp3_bitrate: int | None = None  # kbit/s; None: as the server is set up
    mp3_sample_rate: int | None = None  # Hz; None: the model's


@dataclass(frozen=True, slots=True)
class AnalysisOptions:
    """What else is wanted of each song."""

    lyric_times: bool = False
    peaks: int = 0  # number of points; 0: none
    loudness: bool = False
    stems: tuple[str, ...] = ()  # out of TRACKS, a file each


@dataclass(frozen=True, slots=True)
class AdapterUse:
    """An adapter (LoRA) by its name in the adapters' folder; at scale 0 it has no effect."""

    name: str
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class SongRequest:
    """`batch_size` songs from one caption and lyrics."""

    caption: str = ""
    lyrics: str = ""
    language: str = "en"
    language_fixed: bool = False  # the client named it; otherwise a planner may choose another
    bpm: int | None = None
    key_scale: str | None = None
    time_signature: str | None = None
    duration: float | None = None  # seconds
    batch_size: int | None = None
    # One a song, drawn when the request is accepted: a song that is rendered again after a crash is the same.
    seeds: tuple[int, ...] = ()
    model: str | None = None
    task_type: TaskType = "text2music"
    instruction: str | None = None
    audio_format: AudioFormat = "mp3"
    sampler: SamplerOptions = field(default_factory=SamplerOptions)
    planner: PlannerOptions = field(default_factory=PlannerOptions)
    audio_codes: tuple[int, ...] = ()  # sent by the client in place of the planner's
    warnings: tuple[str, ...] = ()  # sentences about what was clamped, ignored or replaced
    task: TaskOptions = field(default_factory=TaskOptions)
    goal: Goal = "song"
    analysis: AnalysisOptions = field(default_factory=AnalysisOptions)
    adapters: tuple[AdapterUse, ...] = ()  # decided when the request is accepted
    retakes: tuple[Retake, ...] = ()  # one a song, or none
    output: OutputOptions = field(default_factory=OutputOptions)


@dataclass(frozen=True, slots=True)
class Sampling:
    """Decided sampler settings, valid for the model that runs."""

    steps: int
    guidance_scale: float
    shift: float
    cfg_interval: tuple[float, float] = (0.0, 1.0)
    timesteps: tuple[float, ...] | None = None
    infer_method: InferMethod = "ode"
    cover_strength: float = 1.0  # these four as in TaskOptions
    noise_strength: float = 0.0
    injection: float = 0.0
    morph: Morph | None = None
    tuning: Tuning = field(default_factory=Tuning)


@dataclass(frozen=True, slots=True)
class Window:
    """The part of a song that is written anew, in seconds of the song."""

    start: float
    end: float
    source_start: float  # before this and after source_end, a song that grows has silence as its source
    source_end: float
    # Both fades lie inside the window.
    crossfade_frames: int = CROSSFADE_FRAMES
    crossfade_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class SongPlan:
    """One song with everything decided, ready to be rendered."""

    caption: str
    lyrics: str
    language: str
    duration: float  # seconds
    seed: int
    instruction: str
    sampling: Sampling
    bpm: int | None = None
    key_scale: str | None = None
    time_signature: str | None = None
    audio_codes: tuple[int, ...] = ()  # five a second, by the planner or the client; empty: from words alone
    task_type: TaskType = "text2music"
    window: Window | None = None  # None: the whole song is written
    adapters: tuple[AdapterUse, ...] = ()
    retake: Retake | None = None
    follows_latents: bool = False  # as in TaskOptions
    peak_db: float | None = PEAK_DB  # as in OutputOptions
    source_caption: str = ""  # as in TaskOptions
    source_lyrics: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class AudioClip:
    samples: NDArray[np.float32]  # [channels, samples] in -1..1
    sample_rate: int  # Hz

    @property
    def duration(self) -> float:
        return int(self.samples.shape[-1]) / self.sample_rate


@dataclass(frozen=True, slots=True)
class Song:
    """A finished song, and what was used to make it."""

    file: str  # name in the audio store; "": only a plan was asked for
    plan: SongPlan
    audio_format: AudioFormat
    dit_model: str
    lm_model: str = ""
    dtype: str = ""  # as in ModelInfo
    timings: dict[str, float] = field(default_factory=dict)  # seconds per stage
    warnings: tuple[str, ...] = ()
    analysis: Analysis = field(default_factory=Analysis)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a running job is."""

    fraction: float  # 0..1
    stage: str
    text: str = ""  # a sentence for users
    made: tuple[int, Song] | None = None  # the number from 0 of a song that is finished, and the song
