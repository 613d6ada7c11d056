"""NSF-HiFi-GAN: a mel and a bank of sines to audio. One module for the M4Singer and the openvpi (so-vits-svc) kinds.

HiFi-GAN (Kong et al. 2020) with a neural source filter (Wang et al. 2019): the sines, mixed to one signal, are
convolved down to each stage's rate and added to it. The sines are made outside (`runtime.source.sine_source`), where
their phase can be exact and their noise repeatable. Weight normalisation is for training: here it is folded in.
"""

import math
from dataclasses import dataclass
from itertools import chain
from typing import Literal, cast

import torch.nn.functional as F
from torch import Tensor, nn

from ...runtime.audio.spec import COMOSVC_24K, OPENVPI_44K, SINE_HARMONICS
from ..errors import ConfigError

_SLOPE, _LAST_SLOPE = 0.1, 0.01
_EDGE_KERNEL = 7
_LARGEST_SIZE = 512
"""Of rates, kernels and dilations; the authors' have up to 16."""


@dataclass(frozen=True, kw_only=True)
class HifiGanConfig:
    """Sizes, under the names of the public `config.yaml` files where those have one. The defaults are M4Singer's."""

    sample_rate: int = COMOSVC_24K.sample_rate
    n_mels: int = COMOSVC_24K.n_mels
    upsample_rates: tuple[int, ...] = (8, 4, 2, 2)
    upsample_kernel_sizes: tuple[int, ...] = (16, 16, 4, 4)
    upsample_initial_channel: int = 512
    resblock: Literal["1", "2"] = "1"
    resblock_kernel_sizes: tuple[int, ...] = (3, 7, 11)
    resblock_dilation_sizes: tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))
    normalised_source: bool = True
    """M4Singer's: ReLU, then a channel LayerNorm without weights, on each branch of the source. The openvpi kind adds
    the branches as they are.
    """
    mel_gain: float = 1.0
    """Factor on the mel, for one whose logarithm has another base than the network was trained with."""

    def __post_init__(self) -> None:
        rates, kernels = self.upsample_rates, self.upsample_kernel_sizes
        sizes = (*rates, *kernels, *self.resblock_kernel_sizes, *chain(*self.resblock_dilation_sizes))
        if beyond := [size for size in sizes if not 1 <= size <= _LARGEST_SIZE]:
            raise ConfigError(f"rates, kernels and dilations must be 1 to {_LARGEST_SIZE}, found {beyond[0]}")
        if len(rates) != len(kernels) or any(k < u or (k - u) % 2 for u, k in zip(rates, kernels, strict=False)):
            raise ConfigError(
                f"upsample_kernel_sizes {kernels} do not fit upsample_rates {rates}: one kernel for each rate, "
                "as long as the rate or longer by an even number"
            )
        if any(kernel % 2 == 0 for kernel in self.resblock_kernel_sizes):
            raise ConfigError(f"resblock_kernel_sizes {self.resblock_kernel_sizes} must be odd")
        if len(self.resblock_kernel_sizes) != len(self.resblock_dilation_sizes):
            raise ConfigError(f"resblock_dilation_sizes must be one list for each of {self.resblock_kernel_sizes}")
        if self.upsample_initial_channel % 2 ** len(rates):
            raise ConfigError(f"upsample_initial_channel {self.upsample_initial_channel} is halved {len(rates)} times")

    @property
    def hop_length(self) -> int:
        """Samples a mel frame; it must be the audio settings' own."""
        return math.prod(self.upsample_rates)


M4SINGER_24K = HifiGanConfig()
OPENVPI_NSF_44K = HifiGanConfig(
    sample_rate=OPENVPI_44K.sample_rate,
    n_mels=OPENVPI_44K.n_mels,
    upsample_rates=(8, 8, 2, 2, 2),
    upsample_kernel_sizes=(16, 16, 4, 4, 4),
    normalised_source=False,
)


class ResBlock(nn.Module):
    """Residual dilated convolutions; in kind "1" each is followed by one without dilation. (B, C, L) -> (B, C, L)."""

    def __init__(self, kind: str, channels: int, kernel: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.reach = (kernel - 1) // 2 * (sum(dilations) + (len(dilations) if kind == "1" else 0))
        self.convs1 = nn.ModuleList(_conv(channels, channels, kernel, dilation) for dilation in dilations)
        self.convs2 = nn.ModuleList(_conv(channels, channels, kernel) for _ in dilations if kind == "1")

    def forward(self, x: Tensor) -> Tensor:
        for index, conv in enumerate(self.convs1):
            y = conv(F.leaky_relu(x, _SLOPE))
            if len(self.convs2):
                y = self.convs2[index](F.leaky_relu(y, _SLOPE))
            x = x + y
        return x


class NsfHifiGan(nn.Module):
    """mel (B, T, M), source (B, L, 9) -> audio (B, L), L = hop_length * T.

    `mel` has the logarithm that the network was trained with (M4Singer: base 10, openvpi: natural), `source` is
    `runtime.source.sine_source`. The vocoder graph's `f0_hz` and `noise` are not inputs: both are in the source.

    Modules carry the public checkpoints' names, but for `source_mix` (there `m_source.l_linear`) and the convolutions
    of kind "2" blocks (`convs1`, there `convs`).
    """

    source_kind, source_channels = "sine", SINE_HARMONICS

    def __init__(self, config: HifiGanConfig) -> None:
        super().__init__()
        self.config = config
        rates, C = config.upsample_rates, config.upsample_initial_channel
        self.source_mix = nn.Linear(SINE_HARMONICS, 1)
        self.conv_pre = _conv(config.n_mels, C, _EDGE_KERNEL)
        self.ups, self.noise_convs, self.resblocks = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for i, (rate, kernel) in enumerate(zip(rates, config.upsample_kernel_sizes, strict=True)):
            C //= 2
            self.ups.append(nn.ConvTranspose1d(2 * C, C, kernel, rate, padding=(kernel - rate) // 2))
            stride = math.prod(rates[i + 1 :])
            last = i + 1 == len(rates)
            branch = nn.Conv1d(1, C, 1) if last else nn.Conv1d(1, C, 2 * stride, stride, padding=stride // 2)
            self.noise_convs.append(branch)
            shapes = zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True)
            self.resblocks.extend(ResBlock(config.resblock, C, k, dilations) for k, dilations in shapes)
        self.conv_post = _conv(C, 1, _EDGE_KERNEL)

    def forward(self, mel: Tensor, source: Tensor) -> Tensor:
        return self.from_hidden(self.conv_pre(self.config.mel_gain * mel.transpose(1, 2)), source)

    def from_hidden(self, x: Tensor, source: Tensor) -> Tensor:
        """What follows the first convolution: x (B, C, T), source (B, L, 9) -> audio (B, L)."""
        excitation = self.source_mix(source).tanh().transpose(1, 2)
        n_blocks = len(self.config.resblock_kernel_sizes)
        for i, (up, noise_conv) in enumerate(zip(self.ups, self.noise_convs, strict=True)):
            x = up(F.leaky_relu(x, _SLOPE)) + self._branch(noise_conv(excitation))
            blocks = self.resblocks[i * n_blocks : (i + 1) * n_blocks]
            total = blocks[0](x)
            for block in blocks[1:]:
                total = total + block(x)
            x = total / n_blocks
        return self.conv_post(F.leaky_relu(x, _LAST_SLOPE)).tanh()[:, 0]

    def _branch(self, x: Tensor) -> Tensor:
        if not self.config.normalised_source:
            return x
        return F.layer_norm(x.relu().transpose(1, 2), (x.shape[1],)).transpose(1, 2)

    @property
    def mel_context_frames(self) -> tuple[int, int]:
        """Mel frames before and after a hop of audio that reach it: (past, future)."""
        first, last = self._mel_reach()
        return -first, last

    @property
    def context_frames(self) -> tuple[int, int]:
        """Hops before and after a hop of audio that reach it through mel or source: (past, future)."""
        reaches = [self._mel_reach(), *(self._source_reach(stage) for stage in range(len(self.ups)))]
        return -min(first for first, _ in reaches), max(last for _, last in reaches)

    @property
    def lookahead_ms(self) -> float:
        """From a hop's first sample to the centre of the last mel frame it depends on."""
        return (self.mel_context_frames[1] + 0.5) * self.config.hop_length / self.config.sample_rate * 1e3

    def _mel_reach(self) -> tuple[int, int]:
        """First and last mel frame that samples 0 to hop_length - 1 depend on."""
        first, last = self._stage_reach(0)
        first, last = _through_transposed(first, last, cast(nn.ConvTranspose1d, self.ups[0]))
        return first - _EDGE_KERNEL // 2, last + _EDGE_KERNEL // 2

    def _stage_reach(self, stage: int) -> tuple[int, int]:
        """First and last position at the input of a stage's residual blocks that samples 0 to hop_length - 1 need."""
        first, last = -(_EDGE_KERNEL // 2), self.config.hop_length - 1 + _EDGE_KERNEL // 2
        n_blocks = len(self.config.resblock_kernel_sizes)
        for i in reversed(range(stage, len(self.ups))):
            reach = max(cast(ResBlock, block).reach for block in self.resblocks[i * n_blocks : (i + 1) * n_blocks])
            first, last = first - reach, last + reach
            if i > stage:
                first, last = _through_transposed(first, last, cast(nn.ConvTranspose1d, self.ups[i]))
        return first, last

    def _source_reach(self, stage: int) -> tuple[int, int]:
        """First and last hop of the source that samples 0 to hop_length - 1 depend on through one stage's branch."""
        first, last = self._stage_reach(stage)
        conv = cast(nn.Conv1d, self.noise_convs[stage])
        (kernel,), (stride,), padding = conv.kernel_size, conv.stride, cast(tuple[int], conv.padding)[0]
        hop = self.config.hop_length
        return (first * stride - padding) // hop, (last * stride - padding + kernel - 1) // hop


def _conv(inputs: int, outputs: int, kernel: int, dilation: int = 1) -> nn.Conv1d:
    return nn.Conv1d(inputs, outputs, kernel, dilation=dilation, padding=(kernel - 1) // 2 * dilation)


def _through_transposed(first: int, last: int, up: nn.ConvTranspose1d) -> tuple[int, int]:
    """First and last input of a transposed convolution that its outputs `first` to `last` depend on."""
    (kernel,), (stride,), padding = up.kernel_size, up.stride, cast(tuple[int], up.padding)[0]
    return -(-(first + padding - kernel + 1) // stride), (last + padding) // stride
