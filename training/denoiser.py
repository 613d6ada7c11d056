"""The denoiser: DiffWave's non-causal WaveNet as CoMoSVC uses it, with its sizes and its look-ahead in the
configuration.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class DenoiserConfig:
    """Defaults are the authors' network. What departs from it is off by default."""

    channels: int = 512
    hidden: int = 256
    """Channels of the condition."""
    layers: int = 20
    dilation_cycle: tuple[int, ...] = (1,)
    """Dilations of consecutive layers, repeated. The authors' "WaveNet" does not dilate."""
    lookahead_frames: int | None = None
    """Mel frames of future that the network may see; None: every layer is symmetric, as published.

    They are spent on the last layers, past which the condition of all layers still has to go.
    """
    input_skip: bool = False
    """Add k(sigma) * input to the output and scale the rest by 1 + g(sigma).

    At low sigma the network's job is nearly the identity. A small network takes thousands of steps to find a path
    through its bottleneck for that; the skip hands it one. Initially zero, hence off.
    """


class StepEmbedding(nn.Module):
    """Sinusoids of c_noise, then Linear -> Mish -> Linear. c_noise (B,) -> (B, C)."""

    frequencies: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.register_buffer(
            "frequencies", torch.exp(-math.log(10_000.0) / (half - 1) * torch.arange(half)), persistent=False
        )
        self.mlp = nn.Sequential(nn.Linear(channels, 4 * channels), nn.Mish(), nn.Linear(4 * channels, channels))

    def forward(self, c_noise: Tensor) -> Tensor:
        angles = c_noise[:, None] * self.frequencies
        return self.mlp(torch.cat((angles.sin(), angles.cos()), dim=-1))


class ResidualLayer(nn.Module):
    """Gated dilated convolution with a residual and a skip output; step (B, C, 1) and condition (B, 2C, T) are
    projected outside.
    """

    def __init__(self, channels: int, dilation: int, future: int) -> None:
        super().__init__()
        self.padding = (2 * dilation - future, future)
        self.dilated_conv = nn.Conv1d(channels, 2 * channels, 3, dilation=dilation)
        self.output_projection = nn.Conv1d(channels, 2 * channels, 1)

    def forward(self, x: Tensor, step: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        y = self.dilated_conv(F.pad(x + step, self.padding)) + condition
        gate, filtered = y.chunk(2, dim=1)
        residual, skip = self.output_projection(gate.sigmoid() * filtered.tanh()).chunk(2, dim=1)
        return (x + residual) / math.sqrt(2.0), skip


class Denoiser(nn.Module):
    """F(x (B, T, M), c_noise (B,), condition (B, T, hidden)) -> (B, T, M)."""

    def __init__(self, config: DenoiserConfig, n_mels: int) -> None:
        super().__init__()
        self.config = config
        C, n = config.channels, config.layers
        self.input_projection = nn.Conv1d(n_mels, C, 1)
        self.step_embedding = StepEmbedding(C)
        # One matrix product for all layers: the condition and the step are the same for each.
        self.step_projection = nn.Linear(C, n * C)
        self.condition_projection = nn.Linear(config.hidden, n * 2 * C)
        self.layers = nn.ModuleList(
            ResidualLayer(C, dilation, future)
            for dilation, future in zip(_dilations(config), _futures(config), strict=True)
        )
        self.skip_projection = nn.Conv1d(C, C, 1)
        self.output_projection = nn.Conv1d(C, n_mels, 1)
        nn.init.zeros_(self.output_projection.weight)
        for conv in (self.input_projection, self.skip_projection):
            nn.init.kaiming_normal_(conv.weight)
        self.skip_gains = nn.Linear(C, 2 * n_mels) if config.input_skip else None
        if self.skip_gains is not None:
            nn.init.zeros_(self.skip_gains.weight)
            nn.init.zeros_(self.skip_gains.bias)

    @property
    def context_frames(self) -> tuple[int, int]:
        """Frames of past and of future that an output frame depends on."""
        future = sum(_futures(self.config))
        return 2 * sum(_dilations(self.config)) - future, future

    def step_path(self, c_noise: Tensor) -> Tensor:
        """All that the noise level alone decides, (B, E): each layer's step vector, then the gains of the skip."""
        embedding = self.step_embedding(c_noise)
        vectors = self.step_projection(embedding)
        return vectors if self.skip_gains is None else torch.cat((vectors, self.skip_gains(embedding)), dim=-1)

    def forward(self, x: Tensor, c_noise: Tensor, condition: Tensor) -> Tensor:
        return self.evaluate(x, self.step_path(c_noise), condition)

    def evaluate(self, x: Tensor, step_path: Tensor, condition: Tensor) -> Tensor:
        """`forward` with the step path given: at a fixed set of noise levels it is a table."""
        C, n = self.config.channels, self.config.layers
        vectors, gains = step_path[:, : n * C], step_path[:, n * C :]
        steps = vectors.view(-1, n, C, 1).unbind(1)
        conditions = self.condition_projection(condition).transpose(1, 2).chunk(n, dim=1)
        h = self.input_projection(x.transpose(1, 2)).relu()
        total = torch.zeros_like(h)
        for layer, step, layer_condition in zip(self.layers, steps, conditions, strict=True):
            h, skip = layer(h, step, layer_condition)
            total = total + skip
        h = self.skip_projection(total / math.sqrt(n)).relu()
        F_x = self.output_projection(h).transpose(1, 2)
        if self.skip_gains is None:
            return F_x
        g, k = gains[:, None].chunk(2, dim=-1)
        return (1.0 + g) * F_x + k * x


def _dilations(config: DenoiserConfig) -> list[int]:
    return [config.dilation_cycle[i % len(config.dilation_cycle)] for i in range(config.layers)]


def _futures(config: DenoiserConfig) -> list[int]:
    """Future frames of each layer: its dilation, as long as the budget lasts."""
    if config.lookahead_frames is None:
        return _dilations(config)
    left, futures = config.lookahead_frames, []
    for dilation in reversed(_dilations(config)):
        futures.append(min(dilation, left))
        left -= futures[-1]
    return futures[::-1]
