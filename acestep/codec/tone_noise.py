"""A codec without weights: a sine for each semitone, noise in bands, and how loud each band is every 10 ms.

A frame of latents has tones (a level for each semitone), levels of bands in `parts` of the frame, the share
of noise in each band, and where wide bands lie between left and right. Tones follow the levels of their band
within the frame, so a note begins at its time though tones come at 25 Hz. Analysis: constant-Q transform
(J. C. Brown, JASA 1991). Synthesis: "Spectral modeling synthesis" (X. Serra, 1989).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from acestep.catalog.checkpoints import read_json
from acestep.errors import CheckpointError

CLASS_NAME = "ToneNoiseCodec"

_PERIODS = 17  # in an analysis window: the Q of a semitone, 1 / (2^(1/12) - 1) = 16.8
_TILE = 250  # frames analysed or synthesised at once: bounds memory, 10 s at 25 Hz
_NOISE_PERIOD = 2_039  # parts until the noise repeats (20 s); a prime, so it falls on no beat
_NOISE_SEED = 0x5EED
_NOISE_WIDTH = 0.35  # share of the noise that differs between left and right
_FEWEST_BINS = 12  # of a band whose median tells noise from tones; 250 Hz at 25 Hz a bin
_MOST_BINS = 128  # of a band that the median is taken of
_LEAST_SHARE_DB = -40.0
_SMEAR = 9  # parts, over which the windows of the tones smear an attack
_AROUND = 3  # frames that a part depends on, to either side: those of the smear, and the next
_GAIN = (0.03, 2.5)  # least and most that levels may do to a tone
_FARTHEST = 0.98  # from the middle; a pan of 1 would silence a side
_FAINT = 1e-4  # power of a band below which it lies in the middle
_NOTHING = 1e-9  # amplitude that is silence
_LIST_FIELDS = ("band_edges_hz", "pan_edges_hz", "level_mean_db", "share_mean_db")


@dataclass(frozen=True, slots=True)
class ToneNoiseConfig:
    """The fields of `config.json`.

    Latents are `(value - mean) / std`, with the mean and deviation of the training music; `level_mean_db` and
    `share_mean_db` have a value for each band. Levels in dB below `floor_db` are silence.
    """

    sampling_rate: int = 48_000
    hop_length: int = 1_920
    lowest_midi_note: int = 24
    semitones: int = 96
    shortest_window: float = 0.06  # s; in shorter windows high notes flicker
    longest_window: float = 0.25  # s; in longer ones a bass comes too early
    parts: int = 4
    band_edges_hz: tuple[float, ...] = (
        *(0.0, 100.0, 200.0, 400.0, 800.0, 1_500.0, 2_500.0, 4_000.0, 6_500.0, 10_000.0, 24_000.0),
    )
    pan_edges_hz: tuple[float, ...] = (0.0, 200.0, 700.0, 2_500.0, 24_000.0)
    floor_db: float = -75.0
    tone_mean_db: float = -62.0
    tone_std_db: float = 15.0
    level_mean_db: tuple[float, ...] = (-40.0, -32.0, -32.0, -35.0, -42.0, -48.0, -53.0, -56.0, -60.0, -62.0)
    level_std_db: float = 14.0
    share_mean_db: tuple[float, ...] = (-14.0, -14.0, -14.0, -14.0, -12.0, -10.0, -8.0, -6.0, -4.0, -3.0)
    share_std_db: float = 8.0
    pan_std: float = 0.2

    @classmethod
    def read(cls, folder: Path) -> ToneNoiseConfig:
        """Read `config.json`; raises CheckpointError for unknown or missing fields."""
        path = folder / "config.json"
        values = read_json(path)
        values.pop("_class_name", None)
        try:
            return cls(**(values | {name: tuple(values[name]) for name in _LIST_FIELDS}))
        except KeyError as error:
            raise CheckpointError(f"{path}: {error} is missing") from error
        except TypeError as error:
            raise CheckpointError(f"{path}: {error}") from error

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"_class_name": CLASS_NAME, **asdict(self)}, indent=2)
        (folder / "config.json").write_text(text + "\n", encoding="utf-8")

    @property
    def bands(self) -> int:
        return len(self.band_edges_hz) - 1

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Channels of tones, levels, shares and pans; the levels of a frame's first part come first."""
        return self.semitones, self.parts * self.bands, self.bands, len(self.pan_edges_hz) - 1


class _Frames(NamedTuple):
    """Amplitudes `tone` `[B, T, S]`, `level` `[B, T, parts, bands]`; `share` in dB; `pan` -1 (left) to 1."""

    tone: Tensor
    level: Tensor
    share: Tensor
    pan: Tensor


class ToneNoiseCodec:
    def __init__(self, config: ToneNoiseConfig, device: torch.device | None = None) -> None:
        self.config = config
        self._device = device or torch.device("cpu")
        self._part = config.hop_length // config.parts  # samples
        notes = torch.arange(config.semitones, dtype=torch.float64) + config.lowest_midi_note
        self._hz = 440.0 * 2.0 ** ((notes - 69.0) / 12.0)
        self._kernels = [self._kernel(low) for low in range(0, config.semitones, 12)]
        long = torch.arange(config.hop_length + 1).double() * config.sampling_rate / (2 * config.hop_length)
        self._bins = _spans(long, config.band_edges_hz)
        self._pan_bins = _spans(long, config.pan_edges_hz)
        self._band_of_tone = _place(self._hz, config.band_edges_hz).to(self._device)
        self._pan_of_tone = _place(self._hz, config.pan_edges_hz).to(self._device)
        self._pan_of_band = _place(self._middles(), config.pan_edges_hz).to(self._device)
        self._shares = self._shares_of_bins()
        self._blend = self._blend_of_bands()
        self._sines = self._sine_basis()
        self._noise = self._noise_table()

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> ToneNoiseCodec:
        return cls(ToneNoiseConfig.read(folder), device)

    @property
    def sample_rate(self) -> int:
        return self.config.sampling_rate

    @property
    def hop_length(self) -> int:
        return self.config.hop_length

    @property
    def latent_channels(self) -> int:
        return sum(self.config.sizes)

    def encode(self, audio: Tensor) -> Tensor:
        stereo = audio.to(self._device, torch.float32)
        frames = stereo.shape[-1] // self.hop_length
        widest = max(*(kernel.shape[1] for kernel in self._kernels), 2 * self.hop_length)
        padded = functional.pad(stereo, (widest // 2, widest // 2 + self.hop_length))
        tiles = [self._analyse(padded, widest, tile) for tile in _tiles(frames)]
        return torch.cat([self._to_latents(tile) for tile in tiles], dim=1)

    def decode(self, latents: Tensor, on_tile: Callable[[float], None] | None = None) -> Tensor:
        latents = latents.to(self._device, torch.float32)
        parts = latents.shape[1] * self.config.parts
        pieces = []
        for start, stop in _tiles(parts + 1, _TILE * self.config.parts):
            tone, noise = self._knots(latents, torch.arange(start - 1, stop).clamp(0, parts - 1))
            pieces.append(self._tone_wave(tone, start) + self._noise_wave(noise, start))
            if on_tile is not None:
                on_tile(min(1.0, stop / parts))
        half = self._part // 2
        return torch.cat(pieces, dim=-1)[..., half : half + parts * self._part]

    def low_memory(self) -> ToneNoiseCodec:
        return self

    def _kernel(self, low: int) -> Tensor:
        # Windowed complex sines of one octave [2 * notes, length]: cosines, then sines.
        c, hz = self.config, self._hz[low : low + 12]
        lengths = torch.clamp(_PERIODS / hz, min=c.shortest_window, max=c.longest_window)
        lengths = (c.sampling_rate * lengths).round()
        length = int(lengths.max()) // 2 * 2 + 2
        time = (torch.arange(length, dtype=torch.float64) - length / 2)[None]
        inside = time.abs() <= lengths[:, None] / 2
        window = torch.where(inside, 0.5 + 0.5 * torch.cos(2 * math.pi * time / lengths[:, None]), 0.0)
        # A sine of amplitude A gives A: twice the window's mean-normalised correlation.
        window = 2.0 * window / window.sum(dim=1, keepdim=True)
        angle = 2 * math.pi * hz[:, None] * time / c.sampling_rate
        return torch.cat([window * angle.cos(), window * angle.sin()]).float().to(self._device)

    def _middles(self) -> Tensor:
        edges = torch.tensor(self.config.band_edges_hz, dtype=torch.float64)
        return (edges[:-1].clamp_min(30.0) * edges[1:]).sqrt()

    def _shares_of_bins(self) -> Tensor:
        # How much of each bin of a part's spectrum lies in each band, [part + 1, bands].
        width = self.config.sampling_rate / (2 * self._part)
        middle = torch.arange(self._part + 1, dtype=torch.float64)[:, None] * width
        edges = torch.tensor(self.config.band_edges_hz, dtype=torch.float64)[None]
        low, high = (middle - width / 2).clamp_min(0.0), middle + width / 2
        inside = (torch.minimum(high, edges[:, 1:]) - torch.maximum(low, edges[:, :-1])).clamp_min(0.0)
        return (inside / inside.sum(dim=1, keepdim=True)).float().to(self._device)

    def _blend_of_bands(self) -> Tensor:
        # [bands, part + 1]: the level of a bin, between those of the two nearest bands: steps would be heard.
        middles = self._middles().log()
        hz = torch.arange(self._part + 1, dtype=torch.float64) * self.sample_rate / (2 * self._part)
        place = hz.clamp_min(1.0).log()
        above = torch.bucketize(place, middles).clamp(1, len(middles) - 1)
        share = ((place - middles[above - 1]) / (middles[above] - middles[above - 1])).clamp(0.0, 1.0)
        blend = torch.zeros(len(middles), len(hz), dtype=torch.float64)
        blend.scatter_(0, above[None], share[None])
        blend.scatter_(0, above[None] - 1, 1.0 - share[None])
        return blend.float().to(self._device)

    def _analyse(self, padded: Tensor, widest: int, tile: tuple[int, int]) -> _Frames:
        mono = padded.mean(dim=1)
        octaves = []
        for kernel in self._kernels:
            views = self._views(mono, kernel.shape[1], widest, tile)
            real, imaginary = (views @ kernel.T).chunk(2, dim=-1)
            octaves.append(torch.hypot(real, imaginary))
        tone = torch.cat(octaves, dim=-1)
        window, scale = self._window(self.hop_length)
        views = self._views(padded, 2 * self.hop_length, widest, tile)
        spectrum = torch.fft.rfft(views * window)  # [B, 2, T, hop + 1]
        share = self._noise_share(tone, scale * _power(spectrum.mean(dim=1)))
        sides = [self._sums(scale * _power(side)) for side in spectrum.unbind(dim=1)]
        pan = (sides[1] - sides[0]) / (sides[0] + sides[1] + _FAINT)
        window, scale = self._window(self._part)
        fine = (tile[0] * self.config.parts, tile[1] * self.config.parts)
        views = self._views(mono, 2 * self._part, widest, fine, self._part)
        power = scale * _power(torch.fft.rfft(views * window)) @ self._shares
        level = power.sqrt().view(len(power), -1, self.config.parts, self.config.bands)
        return _Frames(tone, level, share, pan)

    def _window(self, hop: int) -> tuple[Tensor, float]:
        # A Hann window of two hops, and what makes the bins of white noise of power P add up to P.
        window = torch.hann_window(2 * hop, dtype=torch.float32, device=self._device)
        return window, 2.0 / (float(window.square().sum()) * 2 * hop)

    def _views(
        self, padded: Tensor, length: int, widest: int, span: tuple[int, int], hop: int | None = None
    ) -> Tensor:
        # The samples around the middle of each hop, [..., hops, length].
        start, stop = span
        hop = hop or self.hop_length
        first = start * hop + hop // 2 + widest // 2 - length // 2
        last = first + (stop - start - 1) * hop + length
        return padded[..., first:last].unfold(-1, length, hop)

    def _noise_share(self, tone: Tensor, power: Tensor) -> Tensor:
        # In dB, `[B, T, bands]`: what the tones do not explain.
        # The median bin of a band ignores the few bins with tones; of white noise it is ln 2 of the mean. The
        # lowest bands have too few bins for that: there, the power of the tones is subtracted.
        shares = []
        for band, (first, last) in enumerate(self._bins):
            bins = power[..., first:last]
            whole = bins.sum(dim=-1)
            if last - first >= _FEWEST_BINS:
                some = bins[..., :: -(-(last - first) // _MOST_BINS)]
                noise = some.median(dim=-1).values * ((last - first) / math.log(2.0))
            else:
                inside = self._band_of_tone == band
                noise = whole - (tone * _is_local_maximum(tone)).square()[..., inside].sum(dim=-1) / 2
            shares.append(noise / whole.clamp_min(1e-12))
        least = 10 ** (_LEAST_SHARE_DB / 10)
        return 10 * torch.log10(torch.stack(shares, dim=-1).clamp(least, 1.0))

    def _sums(self, power: Tensor) -> Tensor:
        return torch.stack([power[..., first:last].sum(dim=-1) for first, last in self._pan_bins], dim=-1)

    def _to_latents(self, found: _Frames) -> Tensor:
        c = self.config
        floor = 10 ** (c.floor_db / 20)
        tone, level = (20 * torch.log10(x.clamp_min(floor)) for x in (found.tone, found.level))
        scaled = (
            (tone - c.tone_mean_db) / c.tone_std_db,
            ((level - self._row(c.level_mean_db)) / c.level_std_db).flatten(2),
            (found.share - self._row(c.share_mean_db)) / c.share_std_db,
            found.pan / c.pan_std,
        )
        return torch.cat(scaled, dim=-1)

    def _from_latents(self, latents: Tensor) -> _Frames:
        c = self.config
        tone, level, share, pan = torch.split(latents, list(c.sizes), dim=-1)
        level = level.reshape(*level.shape[:2], c.parts, c.bands) * c.level_std_db + self._row(
            c.level_mean_db
        )
        return _Frames(
            self._amplitude(tone * c.tone_std_db + c.tone_mean_db),
            self._amplitude(level),
            (share * c.share_std_db + self._row(c.share_mean_db)).clamp(_LEAST_SHARE_DB, 0.0),
            (pan * c.pan_std).clamp(-_FARTHEST, _FARTHEST),
        )

    def _row(self, values: tuple[float, ...]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=self._device)

    def _amplitude(self, decibels: Tensor) -> Tensor:
        # The floor itself is silence; levels above it begin there, without a step.
        return (10 ** (decibels.clamp_max(0.0) / 20) - 10 ** (self.config.floor_db / 20)).clamp_min(0.0)

    def _knots(self, latents: Tensor, parts: Tensor) -> tuple[Tensor, Tensor]:
        # Amplitudes in the middle of `parts`: tones `[B, 2, parts, S]`, noise `[B, 2, parts, bands]`.
        first, last = (int(parts[place]) // self.config.parts for place in (0, -1))
        start = max(0, first - _AROUND)
        found = self._from_latents(latents[:, start : last + 1 + _AROUND])
        kept = (parts - start * self.config.parts).to(self._device)
        level = found.level.flatten(1, 2)
        tone = self._between(found.tone * _is_local_maximum(found.tone))
        tone = (tone * self._attack(level)[..., self._band_of_tone])[:, None, kept]
        noise = (level * self._between(10 ** (found.share / 20)))[:, None, kept]
        pan = self._between(found.pan)[:, kept]
        left, right = (1.0 - pan).sqrt(), (1.0 + pan).sqrt()
        gains = torch.stack([2 * left / (left + right), 2 * right / (left + right)], dim=1)
        return tone * gains[..., self._pan_of_tone], noise * gains[..., self._pan_of_band]

    def _between(self, values: Tensor) -> Tensor:
        # From frames to parts, [B, T, X] to [B, T * parts, X], on straight lines.
        parts = float(self.config.parts)
        return functional.interpolate(
            values.transpose(1, 2), scale_factor=parts, mode="linear", align_corners=False
        ).transpose(1, 2)

    def _attack(self, level: Tensor) -> Tensor:
        # What the levels say beyond what windows as long as those of the tones would see of them.
        smear = torch.hann_window(_SMEAR + 2, periodic=False, dtype=torch.float32, device=self._device)[1:-1]
        around = functional.pad(level.transpose(1, 2), (_SMEAR // 2, _SMEAR // 2), mode="replicate")
        smeared = functional.conv1d(around.flatten(0, 1)[:, None], (smear / smear.sum())[None, None])
        seen = smeared.view(around.shape[0], around.shape[1], -1).transpose(1, 2)
        gain: Tensor = (level / seen.clamp_min(1e-5)).clamp(*_GAIN)
        return gain

    def _sine_basis(self) -> Tensor:
        # One part of each oscillator, fading out and fading in, [4 * S, part].
        time = torch.arange(self._part, dtype=torch.float64)
        angle = 2 * math.pi * self._hz[:, None] * time / self.sample_rate
        fade = time / self._part
        parts = [angle.cos() * (1 - fade), angle.cos() * fade, angle.sin() * (1 - fade), angle.sin() * fade]
        return torch.cat(parts).float().to(self._device)

    def _tone_wave(self, tone: Tensor, start: int) -> Tensor:
        # The oscillators from one knot to the next, `[B, 2, samples]`; the first is number `start`.
        # sin(w (t0 + t)) = sin(w t0) cos(w t) + cos(w t0) sin(w t): a part of all oscillators is one row of a
        # matrix product with a fixed basis.
        time = torch.arange(start, start + tone.shape[2] - 1, dtype=torch.float64)[:, None] * self._part
        phase = 2 * math.pi * torch.frac(self._hz * time / self.sample_rate)
        sine, cosine = (x.float().to(self._device) for x in (phase.sin(), phase.cos()))
        out, into = tone[:, :, :-1], tone[:, :, 1:]
        weights = torch.cat([out * sine, into * sine, out * cosine, into * cosine], dim=-1)
        return (weights @ self._sines).flatten(2)

    def _noise_table(self) -> Tensor:
        # Spectra of white noise of power 1 a bin, `[2, period, part + 1]`, the same on every machine.
        generator = torch.Generator("cpu").manual_seed(_NOISE_SEED)
        shape = (3, _NOISE_PERIOD, self._part + 1)
        angle = 2 * math.pi * torch.rand(shape, generator=generator, dtype=torch.float32)
        middle, left, right = torch.polar(torch.ones(shape, dtype=torch.float32), angle)
        keep, own = math.sqrt(1 - _NOISE_WIDTH), math.sqrt(_NOISE_WIDTH)
        return torch.stack([keep * middle + own * left, keep * middle + own * right]).to(self._device)

    def _noise_wave(self, noise: Tensor, start: int) -> Tensor:
        # Overlap-add of random-phase spectra.
        parts = torch.arange(start, start + noise.shape[2], device=self._device)
        table = self._noise[:, parts % _NOISE_PERIOD]
        # A band's power spread over its bins, and 2 * part samples an inverse transform.
        density = noise / self._shares.sum(dim=0).sqrt()
        gains = (torch.exp(density.clamp_min(_NOTHING).log() @ self._blend) - 2 * _NOTHING).clamp_min(0.0)
        spectra = gains * (math.sqrt(2.0) * self._part) * table
        grains = torch.fft.irfft(spectra, n=2 * self._part)
        # A sine window: its square and that of its neighbour add up to one, so power is constant.
        ramp = torch.arange(2 * self._part, dtype=torch.float32, device=self._device)
        grains = grains * torch.sin(math.pi * (ramp + 0.5) / (2 * self._part))
        first, second = grains[..., : self._part], grains[..., self._part :]
        # Grain t reaches one part to either side of the middle of part t.
        wave: Tensor = (second[:, :, :-1] + first[:, :, 1:]).flatten(2)
        return wave


def _place(hz: Tensor, edges: tuple[float, ...]) -> Tensor:
    """The band of each frequency."""
    return torch.bucketize(hz, torch.tensor(edges[1:-1], dtype=torch.float64), right=True)


def _spans(hz: Tensor, edges: tuple[float, ...]) -> list[tuple[int, int]]:
    """The first of the rising frequencies in each band, and the first beyond it."""
    places = _place(hz, edges).tolist()
    bands = range(len(edges) - 1)
    return [(places.index(band), len(places) - places[::-1].index(band)) for band in bands]


def _power(spectrum: Tensor) -> Tensor:
    return spectrum.real.square() + spectrum.imag.square()


def _is_local_maximum(tone: Tensor) -> Tensor:
    edge = torch.full_like(tone[..., :1], -1.0)
    below = torch.cat([edge, tone[..., :-1]], dim=-1)
    above = torch.cat([tone[..., 1:], edge], dim=-1)
    return (tone >= below) & (tone > above)


def _tiles(count: int, size: int = _TILE) -> Iterator[tuple[int, int]]:
    for start in range(0, count, size):
        yield start, min(count, start + size)
