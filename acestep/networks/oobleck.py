"""The Oobleck autoencoder: stereo sound `[B, 2, N]` to latents `[B, C, N / hop]` and back."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from acestep.networks.config_file import ConfigFile

# Samples that a convolution of 7 taps reaches to each side, and three of them dilated by 1, 3 and 9.
SEVEN_TAPS = 3
RESIDUAL_UNITS = SEVEN_TAPS * (1 + 3 + 9)

# Samples that a CPU takes through a block at a time: what lies between its layers stays in the caches, and
# in memory that the allocator keeps. Longer ones fall out of them; of shorter ones more is computed twice.
_PIECE = 4096

_SIZES = (
    *("encoder_hidden_size", "decoder_channels", "decoder_input_channels", "audio_channels", "sampling_rate"),
)


@dataclass(frozen=True, slots=True)
class OobleckConfig:
    encoder_hidden_size: int
    decoder_channels: int
    decoder_input_channels: int
    audio_channels: int
    sampling_rate: int
    downsampling_ratios: tuple[int, ...]
    channel_multiples: tuple[int, ...]

    @classmethod
    def read(cls, path: Path) -> OobleckConfig:
        """Read a `config.json`. Raises CheckpointError with the setting that is missing or wrong."""
        file = ConfigFile.read(path)
        if file.content.get("audio_channels") != 2:
            raise file.error("audio_channels", "2 (stereo)")
        ratios, multiples = file.sizes("downsampling_ratios"), file.sizes("channel_multiples")
        if len(ratios) != len(multiples):
            raise file.error("channel_multiples", f"a list of {len(ratios)}, one a ratio,")
        return cls(
            **{name: file.size(name) for name in _SIZES},
            downsampling_ratios=ratios,
            channel_multiples=multiples,
        )

    @property
    def hop_length(self) -> int:
        return math.prod(self.downsampling_ratios)


class Oobleck(nn.Module):
    def __init__(self, config: OobleckConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = OobleckEncoder(config)
        self.decoder = OobleckDecoder(config)

    @property
    def dtype(self) -> torch.dtype:
        return self.decoder.conv1.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.decoder.conv1.weight.device

    def encode(self, sound: Tensor) -> Tensor:
        """The mean of the latents' distribution."""
        mean: Tensor = self.encoder(sound).chunk(2, dim=1)[0]
        return mean

    def decode(self, latents: Tensor) -> Tensor:
        sound: Tensor = self.decoder(latents)
        return sound


class OobleckEncoder(nn.Module):
    def __init__(self, config: OobleckConfig) -> None:
        super().__init__()
        width = config.encoder_hidden_size
        widths = [width * multiple for multiple in (1, *config.channel_multiples)]
        self.conv1 = nn.Conv1d(config.audio_channels, width, 7, padding=SEVEN_TAPS)
        self.block = nn.ModuleList(
            DownBlock(*each) for each in zip(widths, widths[1:], config.downsampling_ratios, strict=False)
        )
        self.snake1 = Snake(widths[-1])
        self.conv2 = nn.Conv1d(widths[-1], width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for block in self.block:
            x = block(x)
        encoded: Tensor = self.conv2(self.snake1(x))
        return encoded


class OobleckDecoder(nn.Module):
    def __init__(self, config: OobleckConfig) -> None:
        super().__init__()
        width = config.decoder_channels
        widths = [width * multiple for multiple in reversed((1, *config.channel_multiples))]
        ratios = config.downsampling_ratios[::-1]
        self.conv1 = nn.Conv1d(config.decoder_input_channels, widths[0], 7, padding=SEVEN_TAPS)
        self.block = nn.ModuleList(UpBlock(*each) for each in zip(widths, widths[1:], ratios, strict=False))
        self.snake1 = Snake(width)
        self.conv2 = nn.Conv1d(width, config.audio_channels, 7, padding=SEVEN_TAPS, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for block in self.block:
            x = block(x)
        return _in_pieces(lambda piece: self.conv2(self.snake1(piece)), x, reach=SEVEN_TAPS)


class DownBlock(nn.Module):
    def __init__(self, inside: int, outside: int, ratio: int) -> None:
        super().__init__()
        self.ratio = ratio
        self.res_unit1 = ResidualUnit(inside, 1)
        self.res_unit2 = ResidualUnit(inside, 3)
        self.res_unit3 = ResidualUnit(inside, 9)
        self.snake1 = Snake(inside)
        self.conv1 = nn.Conv1d(inside, outside, 2 * ratio, ratio, padding=math.ceil(ratio / 2))

    def forward(self, x: Tensor) -> Tensor:
        return _in_pieces(self._piece, x, RESIDUAL_UNITS + 2 * self.ratio, down=self.ratio)

    def _piece(self, x: Tensor) -> Tensor:
        for unit in (self.res_unit1, self.res_unit2, self.res_unit3):
            x = unit(x)
        shorter: Tensor = self.conv1(self.snake1(x))
        return shorter


class UpBlock(nn.Module):
    def __init__(self, inside: int, outside: int, ratio: int) -> None:
        super().__init__()
        self.ratio = ratio
        self.snake1 = Snake(inside)
        self.conv_t1 = nn.ConvTranspose1d(inside, outside, 2 * ratio, ratio, padding=math.ceil(ratio / 2))
        self.res_unit1 = ResidualUnit(outside, 1)
        self.res_unit2 = ResidualUnit(outside, 3)
        self.res_unit3 = ResidualUnit(outside, 9)

    def forward(self, x: Tensor) -> Tensor:
        return _in_pieces(self._piece, x, RESIDUAL_UNITS + 2 * self.ratio, up=self.ratio)

    def _piece(self, x: Tensor) -> Tensor:
        x = self._lengthen(self.snake1(x))
        for unit in (self.res_unit1, self.res_unit2, self.res_unit3):
            x = unit(x)
        return x

    def _lengthen(self, x: Tensor) -> Tensor:
        conv, ratio = self.conv_t1, self.ratio
        if x.device.type != "cpu":
            longer: Tensor = conv(x)
            return longer
        # A product, and a sum of what overlaps: up to twice as fast as the CPU libraries' own.
        taps = conv.weight.flatten(1).t() @ x
        padding = math.ceil(ratio / 2)
        length = (x.shape[-1] + 1) * ratio - 2 * padding
        summed = functional.fold(taps, (1, length), (1, 2 * ratio), padding=(0, padding), stride=(1, ratio))
        assert conv.bias is not None
        return summed[:, :, 0].add_(conv.bias[:, None])


class ResidualUnit(nn.Module):
    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.snake1 = Snake(width)
        self.conv1 = nn.Conv1d(width, width, 7, padding=SEVEN_TAPS * dilation, dilation=dilation)
        self.snake2 = Snake(width)
        self.conv2 = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.conv2(self.snake2(self.conv1(self.snake1(x))))
        return mixed.add_(x)


class Snake(nn.Module):
    """`x + sin(a x)^2 / b` with `a`, `b` of each channel, stored as logarithms."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(1, width, 1))
        self.beta = nn.Parameter(torch.zeros(1, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        wave = (x * self.alpha.exp()).sin_().square_()
        return torch.addcmul(x, wave, (self.beta.exp() + 1e-9).reciprocal(), out=wave)


def _in_pieces(
    compute: Callable[[Tensor], Tensor], x: Tensor, reach: int, up: int = 1, down: int = 1
) -> Tensor:
    # `compute` makes `up` samples of `down`. Those of a piece depend on `reach` samples beyond it at most, on
    # the longer side of the two.
    step = _PIECE // max(up, down)
    length = -(-x.shape[-1] // down)
    if x.device.type != "cpu" or length <= step:
        return compute(x)
    margin, stop = -(-reach // max(up, down)), 0
    computed = x
    for start in range(0, length, step):
        first = max(0, start - margin)
        piece = compute(x[..., first * down : (start + step + margin) * down])
        if not start:
            computed = piece.new_empty(*piece.shape[:-1], length * up)
        piece = piece[..., (start - first) * up : (start + step - first) * up]
        stop = start * up + piece.shape[-1]
        computed[..., start * up : stop] = piece
    return computed[..., :stop]  # an odd ratio costs a sample


def split_weights(module: nn.Module) -> None:
    """Give convolutions the tensors that files have for a weight: `weight_v` and its length `weight_g`."""
    for conv in _convolutions(module):
        direction = conv.weight
        del conv.weight
        conv.weight_g = nn.Parameter(direction.new_empty(len(direction), 1, 1), requires_grad=False)
        conv.weight_v = direction


def join_weights(module: nn.Module) -> None:
    """Undo `split_weights` with what was loaded since."""
    for conv in _convolutions(module):
        direction, length = conv.weight_v, conv.weight_g
        del conv.weight_v, conv.weight_g
        norm = torch.linalg.vector_norm(direction, dim=(1, 2), keepdim=True)
        conv.weight = nn.Parameter(direction * (length / norm), requires_grad=False)


def _convolutions(module: nn.Module) -> list[nn.Conv1d | nn.ConvTranspose1d]:
    return [each for each in module.modules() if isinstance(each, nn.Conv1d | nn.ConvTranspose1d)]
