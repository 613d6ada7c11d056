"""The acoustic model of teacher and student: a condition from the source, and DiffWave's non-causal WaveNet."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...runtime.audio.features import mel_centres_hz
from ...runtime.audio.spec import AudioSpec
from ..errors import ConfigError
from .diffusion import SigmaConfig, edm_scalings


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


_KEY_SHIFT_SCALE = 5.0  # semitones, the largest shift of the authors' augmentation
Network = Callable[[Tensor, Tensor, Tensor], Tensor]
"""F(x (B, T, M), c_noise (B,), condition (B, T, hidden)) -> (B, T, M)."""


@dataclass(frozen=True, kw_only=True)
class AcousticConfig:
    """Sizes, and the departures from the authors' conditioning (off by default)."""

    denoiser: DenoiserConfig = field(default_factory=DenoiserConfig)
    sigma: SigmaConfig = field(default_factory=SigmaConfig)
    harmonic_embedding: bool = False
    """Also tell the network where the harmonics of F0 fall in each mel band, and whether the frame is voiced.

    Below about 2 kHz a mel band holds zero or one harmonic of a singing voice. A network that gets only ln(1 + f0 /
    700) must learn that comb; a small one draws it blurred.
    """
    log_loudness: bool = False
    """Embed the logarithm of loudness. The authors embed the linear amplitude, in which all quiet frames are alike."""
    key_shift_embedding: bool = False
    """The authors' `use_pitch_aug`: tell the network by how much a clip was shifted in pitch to augment the data."""
    mel_range: tuple[float, float] | None = None
    """Log-mel that becomes -1 and +1, the same for all bands. None: mean of each band and one scale, from the data."""

    def __post_init__(self) -> None:
        if self.mel_range is not None and self.mel_range[0] >= self.mel_range[1]:
            raise ConfigError(f"mel_range {self.mel_range} must be two log-mel values, the lower one first")


AUTHORS_ACOUSTIC = AcousticConfig(mel_range=(-6.0, 1.5), key_shift_embedding=True)
"""CoMoSVC's system: 20 x 512 without dilation, hidden 256, condition sum. `use_pitch_aug: false` in a `config.yaml` is
`key_shift_embedding=False`; n_spk 1, which has no singer embedding there, is one of zeros here.
"""


@dataclass
class Condition:
    """What the mel is painted from, as tensors.

    content (B, S, C), content_index (B, T) int32 into S, f0_hz (B, T) with 0 = unvoiced, loudness (B, T) linear
    amplitude, singer (B, hidden); key_shift (B,) in semitones, or None, which is 0.
    """

    content: Tensor
    content_index: Tensor
    f0_hz: Tensor
    loudness: Tensor
    singer: Tensor
    key_shift: Tensor | None = None


class HarmonicFeatures(nn.Module):
    """f0_hz (B, T) -> (B, T, M + 1): a comb at each band's centre, smoothed over the band, and a voicing flag."""

    centres_hz: Tensor
    widths_hz: Tensor

    def __init__(self, spec: AudioSpec) -> None:
        super().__init__()
        centres = mel_centres_hz(spec)
        # A band smears the comb by its own width and by the analysis window's main lobe.
        widths = np.hypot(np.gradient(centres), 1.5 * spec.sample_rate / spec.win_length)
        self.register_buffer("centres_hz", torch.from_numpy(centres).float(), persistent=False)
        self.register_buffer("widths_hz", torch.from_numpy(widths).float(), persistent=False)

    def forward(self, f0_hz: Tensor) -> Tensor:
        voiced = (f0_hz > 0).to(f0_hz.dtype)[..., None]
        period = 1.0 / f0_hz.clamp(min=20.0)[..., None]
        comb = torch.cos(2.0 * math.pi * self.centres_hz * period) * torch.exp(-((self.widths_hz * period) ** 2))
        return torch.cat((comb * voiced, voiced), dim=-1)


class AcousticModel(nn.Module):
    """D(x; sigma, condition) = c_skip x + c_out F(c_in x; c_noise, condition) on the normalised mel. EDM eq. 7."""

    mel_mean: Tensor
    mel_scale: Tensor

    def __init__(self, config: AcousticConfig, spec: AudioSpec, n_content: int, n_singers: int) -> None:
        super().__init__()
        self.config, self.spec = config, spec
        hidden = config.denoiser.hidden
        self.content_embed = nn.Linear(n_content, hidden)
        self.f0_embed = nn.Linear(1, hidden)
        self.loudness_embed = nn.Linear(1, hidden)
        self.singer_embed = nn.Embedding(n_singers, hidden)
        self.harmonic_embed = (
            nn.Sequential(HarmonicFeatures(spec), nn.Linear(spec.n_mels + 1, hidden))
            if config.harmonic_embedding
            else None
        )
        self.key_shift_embed = nn.Linear(1, hidden, bias=False) if config.key_shift_embedding else None
        self.denoiser = Denoiser(config.denoiser, spec.n_mels)
        low, high = config.mel_range or (-1.0, 1.0)
        self.register_buffer("mel_mean", torch.full((spec.n_mels,), (low + high) / 2.0))
        self.register_buffer("mel_scale", torch.tensor((high - low) / 2.0))

    def normalise(self, mel: Tensor) -> Tensor:
        """The bundle's log-mel to units in which its standard deviation is sigma_data."""
        return (mel - self.mel_mean) / self.mel_scale

    def denormalise(self, x: Tensor) -> Tensor:
        """The inverse of `normalise`."""
        return x * self.mel_scale + self.mel_mean

    def embed(self, condition: Condition) -> Tensor:
        """Sum of the projected parts of the condition, (B, T, hidden). Code of the authors; their paper says
        concatenation.
        """
        index = condition.content_index.long()[..., None].expand(-1, -1, self.content_embed.out_features)
        total = torch.gather(self.content_embed(condition.content), 1, index)
        total = total + self.f0_embed(torch.log1p(condition.f0_hz / 700.0)[..., None])
        total = total + self.loudness_embed(self._loudness(condition.loudness)[..., None])
        if self.harmonic_embed is not None:
            total = total + self.harmonic_embed(condition.f0_hz)
        if self.key_shift_embed is not None and condition.key_shift is not None:
            shift = condition.key_shift / _KEY_SHIFT_SCALE
            total = total + self.key_shift_embed(shift[:, None])[:, None]
        return total + condition.singer[:, None]

    def _loudness(self, loudness: Tensor) -> Tensor:
        return torch.log10(loudness.clamp(min=1e-5)) + 2.0 if self.config.log_loudness else loudness

    def denoise(self, x: Tensor, sigma: Tensor, embedded: Tensor, denoiser: Network | None = None) -> Tensor:
        """D(x (B, T, M); sigma (B,)) given the embedded condition; float32 around whatever precision the network
        runs in.

        `denoiser` takes the place of the model's own: an averaged copy, or the same with its step path in a table.
        """
        c_skip, c_out, c_in, c_noise = (c.view(-1, 1, 1) for c in edm_scalings(sigma, self.config.sigma))
        F_x = (denoiser or self.denoiser)(c_in * x, c_noise.view(-1), embedded).float()
        return c_skip * x + c_out * F_x
