"""The acoustic model: a condition taken from the source, and a denoiser. Teacher and student are both this."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from ..runtime.mel import mel_centres_hz
from ..runtime.spec import AudioSpec
from .denoiser import Denoiser, DenoiserConfig
from .diffusion import SigmaConfig, edm_scalings
from .errors import ConfigError

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
