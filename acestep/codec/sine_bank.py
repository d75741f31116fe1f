"""A codec without weights: a sine for each semitone, and noise in bands.

Its latents are nearly a piano roll, so a model of a few million weights can learn them on a CPU. Analysis:
constant-Q transform (J. C. Brown, JASA 1991). Synthesis: "Spectral modeling synthesis" (X. Serra, 1989).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from acestep.catalog.checkpoints import read_json
from acestep.errors import CheckpointError

CLASS_NAME = "SineBankCodec"

_PERIODS = 17  # in an analysis window: the Q of a semitone, 1 / (2^(1/12) - 1) = 16.8
_MIN_WINDOW = 0.060  # s; in shorter windows high notes flicker
_TILE = 250  # frames analysed or synthesised at once: bounds memory, 10 s at 25 Hz
_NOISE_PERIOD = 509  # frames until the noise repeats (20 s); a prime, so it falls on no beat
_NOISE_SEED = 0x5EED
_NOISE_WIDTH = 0.35  # share of the noise that differs between left and right
_PAN_WIDTH = 0.25  # how far the semitones spread over the stereo field, 0..1


@dataclass(frozen=True, slots=True)
class SineBankConfig:
    """The fields of `config.json`.

    Latents are `(dB - mean) / std` of levels above `floor_db`; mean and std are those of the training music.
    """

    sampling_rate: int = 48_000
    hop_length: int = 1_920
    lowest_midi_note: int = 24
    semitones: int = 88
    noise_edges_hz: tuple[float, ...] = (
        *(0.0, 60.0, 120.0, 250.0, 500.0, 1_000.0, 2_000.0, 3_500.0),
        *(5_000.0, 7_000.0, 9_500.0, 12_500.0, 16_000.0, 24_000.0),
    )
    floor_db: float = -60.0
    tone_mean_db: float = -52.0
    tone_std_db: float = 14.0
    noise_mean_db: float = -55.0
    noise_std_db: float = 12.0

    @classmethod
    def read(cls, folder: Path) -> SineBankConfig:
        """Read `config.json`; raises CheckpointError for unknown or missing fields."""
        path = folder / "config.json"
        values = read_json(path)
        values.pop("_class_name", None)
        try:
            return cls(**(values | {"noise_edges_hz": tuple(values["noise_edges_hz"])}))
        except KeyError as error:
            raise CheckpointError(f"{path}: {error} is missing") from error
        except TypeError as error:
            raise CheckpointError(f"{path}: {error}") from error

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"_class_name": CLASS_NAME, **asdict(self)}, indent=2)
        (folder / "config.json").write_text(text + "\n", encoding="utf-8")


class SineBankCodec:
    def __init__(self, config: SineBankConfig, device: torch.device | None = None) -> None:
        self.config = config
        self._device = device or torch.device("cpu")
        notes = torch.arange(config.semitones, dtype=torch.float64) + config.lowest_midi_note
        self._hz = 440.0 * 2.0 ** ((notes - 69.0) / 12.0)
        self._kernels = [self._kernel(low) for low in range(0, config.semitones, 12)]
        self._band_of_bin = self._assign_bins()
        self._bins = torch.bincount(self._band_of_bin, minlength=self.bands).to(self._device, torch.float32)
        self._sines = self._sine_basis()
        self._noise = self._noise_table()
        # Golden-angle spread: neighbours in pitch land far apart, and no key leans to one side.
        pan = _PAN_WIDTH * torch.sin(2.4 * torch.arange(config.semitones, dtype=torch.float32))
        self._pan = torch.stack([1.0 - pan, 1.0 + pan]).to(self._device)

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> SineBankCodec:
        return cls(SineBankConfig.read(folder), device)

    @property
    def sample_rate(self) -> int:
        return self.config.sampling_rate

    @property
    def hop_length(self) -> int:
        return self.config.hop_length

    @property
    def bands(self) -> int:
        return len(self.config.noise_edges_hz) - 1

    @property
    def latent_channels(self) -> int:
        return self.config.semitones + self.bands

    def encode(self, audio: Tensor) -> Tensor:
        mono = audio.to(self._device, torch.float32).mean(dim=1)
        frames = mono.shape[-1] // self.hop_length
        tone, power = self._analyse(mono, frames)
        noise = self._noise_power(tone, power).clamp_min(0.0).sqrt()
        return self._to_latents(tone, noise)

    def decode(self, latents: Tensor, on_tile: Callable[[float], None] | None = None) -> Tensor:
        tone, noise = self._from_latents(latents.to(self._device, torch.float32))
        tone = tone * _is_local_maximum(tone)
        frames = latents.shape[1]
        # A frame stands for the middle of its hop; hold the first and last half hop.
        tone, noise = (torch.cat([x[:, :1], x, x[:, -1:]], dim=1) for x in (tone, noise))
        pieces = []
        for start, stop in _tiles(frames + 1):
            wave = self._tone_wave(tone, start, stop) + self._noise_wave(noise, start, stop)
            pieces.append(wave)
            if on_tile is not None:
                on_tile(min(1.0, stop / frames))
        half = self.hop_length // 2
        return torch.cat(pieces, dim=-1)[..., half : half + frames * self.hop_length]

    def low_memory(self) -> SineBankCodec:
        return self

    def _kernel(self, low: int) -> Tensor:
        # Windowed complex sines of one octave [2 * notes, length]: cosines, then sines.
        hz = self._hz[low : low + 12]
        lengths = (self.sample_rate * torch.clamp(_PERIODS / hz, min=_MIN_WINDOW)).round()
        length = int(lengths.max()) // 2 * 2 + 2
        time = (torch.arange(length, dtype=torch.float64) - length / 2)[None]
        inside = time.abs() <= lengths[:, None] / 2
        window = torch.where(inside, 0.5 + 0.5 * torch.cos(2 * math.pi * time / lengths[:, None]), 0.0)
        # A sine of amplitude A gives A: twice the window's mean-normalised correlation.
        window = 2.0 * window / window.sum(dim=1, keepdim=True)
        angle = 2 * math.pi * hz[:, None] * time / self.sample_rate
        return torch.cat([window * angle.cos(), window * angle.sin()]).float().to(self._device)

    def _assign_bins(self) -> Tensor:
        edges = torch.tensor(self.config.noise_edges_hz[1:-1], dtype=torch.float64)
        bins = torch.arange(self.hop_length + 1, dtype=torch.float32)
        bins = bins * self.sample_rate / (2 * self.hop_length)
        return torch.bucketize(bins.double(), edges, right=True).to(self._device)

    def _analyse(self, mono: Tensor, frames: int) -> tuple[Tensor, Tensor]:
        # The amplitudes of semitones `[B, T, S]` and the power spectrum `[B, T, hop + 1]`.
        widest = max(*(kernel.shape[1] for kernel in self._kernels), 2 * self.hop_length)
        padded = torch.nn.functional.pad(mono, (widest // 2, widest // 2 + self.hop_length))
        window = torch.hann_window(2 * self.hop_length, dtype=torch.float32, device=self._device)
        tones, powers = [], []
        for start, stop in _tiles(frames):
            octaves = []
            for kernel in self._kernels:
                views = self._views(padded, kernel.shape[1], widest, (start, stop))
                real, imaginary = (views @ kernel.T).chunk(2, dim=-1)
                octaves.append(torch.hypot(real, imaginary))
            tones.append(torch.cat(octaves, dim=-1))
            views = self._views(padded, 2 * self.hop_length, widest, (start, stop))
            spectrum = torch.fft.rfft(views * window)
            # Scaled so that the bins of white noise of power P add up to P.
            powers.append(2.0 * spectrum.abs().square() / (window.square().sum() * 2 * self.hop_length))
        return torch.cat(tones, dim=1), torch.cat(powers, dim=1)

    def _views(self, padded: Tensor, length: int, widest: int, span: tuple[int, int]) -> Tensor:
        # The samples around the middle of each frame, [B, frames, length].
        start, stop = span
        first = start * self.hop_length + self.hop_length // 2 + widest // 2 - length // 2
        last = first + (stop - start - 1) * self.hop_length + length
        return padded[:, first:last].unfold(-1, length, self.hop_length)

    def _noise_power(self, tone: Tensor, power: Tensor) -> Tensor:
        # Power `[B, T, bands]` that the tones do not explain.
        # The median bin of a band ignores the few bins with tones; of white noise it is ln 2 of the mean. The
        # lowest bands have too few bins for that: there, the power of the tones is subtracted.
        bands = []
        for band in range(self.bands):
            bins = power[..., self._band_of_bin == band]
            if self.config.noise_edges_hz[band + 1] > 250.0:
                bands.append(bins.median(dim=-1).values * bins.shape[-1] / math.log(2.0))
                continue
            low, high = self.config.noise_edges_hz[band : band + 2]
            inside = ((self._hz >= low) & (self._hz < high)).to(self._device)
            of_tones = (tone * _is_local_maximum(tone)).square()[..., inside].sum(dim=-1) / 2
            bands.append(bins.sum(dim=-1) - of_tones)
        return torch.stack(bands, dim=-1)

    def _to_latents(self, tone: Tensor, noise: Tensor) -> Tensor:
        c = self.config
        floor = 10 ** (c.floor_db / 20)
        tone_db, noise_db = (20 * torch.log10(x.clamp_min(floor)) for x in (tone, noise))
        scaled = [(tone_db - c.tone_mean_db) / c.tone_std_db, (noise_db - c.noise_mean_db) / c.noise_std_db]
        return torch.cat(scaled, dim=-1)

    def _from_latents(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        c = self.config
        tone, noise = latents[..., : c.semitones], latents[..., c.semitones :]
        floor = 10 ** (c.floor_db / 20)
        tone_db = (tone * c.tone_std_db + c.tone_mean_db).clamp_max(0.0)
        noise_db = (noise * c.noise_std_db + c.noise_mean_db).clamp_max(0.0)
        # The floor itself is silence; levels above it begin there, without a step.
        return (10 ** (tone_db / 20) - floor).clamp_min(0.0), (10 ** (noise_db / 20) - floor).clamp_min(0.0)

    def _sine_basis(self) -> Tensor:
        # One hop of each oscillator, fading out and fading in, [4 * S, hop].
        time = torch.arange(self.hop_length, dtype=torch.float64)
        angle = 2 * math.pi * self._hz[:, None] * time / self.sample_rate
        fade = time / self.hop_length
        parts = [angle.cos() * (1 - fade), angle.cos() * fade, angle.sin() * (1 - fade), angle.sin() * fade]
        return torch.cat(parts).float().to(self._device)

    def _tone_wave(self, tone: Tensor, start: int, stop: int) -> Tensor:
        # The oscillators from the middle of frame `start` to that of `stop`, `[B, 2, samples]`.
        # sin(w (t0 + t)) = sin(w t0) cos(w t) + cos(w t0) sin(w t): a hop of all oscillators is one row of a
        # matrix product with a fixed basis.
        time = torch.arange(start, stop, dtype=torch.float64)[:, None] * self.hop_length
        phase = 2 * math.pi * torch.frac(self._hz * time / self.sample_rate)
        sine, cosine = (x.float().to(self._device) for x in (phase.sin(), phase.cos()))
        out, into = tone[:, start:stop], tone[:, start + 1 : stop + 1]
        channels = []
        for pan in self._pan:
            a, b = out * pan, into * pan
            weights = torch.cat([a * sine, b * sine, a * cosine, b * cosine], dim=-1)
            channels.append((weights @ self._sines).flatten(1))
        return torch.stack(channels, dim=1)

    def _noise_table(self) -> Tensor:
        # Spectra of white noise of power 1 a bin, `[2, period, hop + 1]`, the same on every machine.
        generator = torch.Generator("cpu").manual_seed(_NOISE_SEED)
        shape = (3, _NOISE_PERIOD, self.hop_length + 1)
        angle = 2 * math.pi * torch.rand(shape, generator=generator, dtype=torch.float32)
        middle, left, right = torch.polar(torch.ones(shape, dtype=torch.float32), angle)
        keep, own = math.sqrt(1 - _NOISE_WIDTH), math.sqrt(_NOISE_WIDTH)
        return torch.stack([keep * middle + own * left, keep * middle + own * right]).to(self._device)

    def _noise_wave(self, noise: Tensor, start: int, stop: int) -> Tensor:
        # Overlap-add of random-phase spectra.
        frames = torch.arange(start, stop + 1, device=self._device)
        # Spread a band's power over its bins; 2 * hop samples an inverse transform.
        per_bin = noise[:, start : stop + 1] / self._bins.sqrt() * (math.sqrt(2.0) * self.hop_length)
        gains = per_bin[..., self._band_of_bin]
        table = self._noise[:, frames % _NOISE_PERIOD]
        grains = torch.fft.irfft(gains[:, None] * table[None], n=2 * self.hop_length)
        # A sine window: its square and that of its neighbour add up to one, so power is constant.
        ramp = torch.arange(2 * self.hop_length, dtype=torch.float32, device=self._device)
        ramp = (ramp + 0.5) / (2 * self.hop_length)
        grains = grains * torch.sin(math.pi * ramp)
        first, second = grains[..., : self.hop_length], grains[..., self.hop_length :]
        # Grain t reaches one hop to either side of the middle of frame t.
        wave: Tensor = (second[:, :, :-1] + first[:, :, 1:]).flatten(2)
        return wave


def _is_local_maximum(tone: Tensor) -> Tensor:
    edge = torch.full_like(tone[..., :1], -1.0)
    below = torch.cat([edge, tone[..., :-1]], dim=-1)
    above = torch.cat([tone[..., 1:], edge], dim=-1)
    return (tone >= below) & (tone > above)


def _tiles(frames: int) -> Iterator[tuple[int, int]]:
    for start in range(0, frames, _TILE):
        yield start, min(frames, start + _TILE)
