"""The light vocoder (filtered pulses and noise), and the kinds of vocoder that a recipe may name."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...runtime.audio.features import mel_centres_hz
from ...runtime.audio.spec import AudioSpec
from ..config import from_mapping
from ..content.encoder import CausalBlock, futures_of
from ..errors import ConfigError
from ..loop.devices import full_precision
from .frame_spectra import HOPS_PER_WINDOW, FrameSpectra, dispersed_dft
from .hifigan import M4SINGER_24K, HifiGanConfig, NsfHifiGan

_ABSENT = 1e-4
"""Mel of an excitation that is not there; pulses and noise of unit power lie near 0.2."""
_MAX_LOG_GAIN = 9.0
_MAX_LOG_CORRECTION = 2.0
_SILENCE_RAMP = 0.05
"""A band within this share above the mel's floor fades out, so that digital silence in gives digital silence out."""


@dataclass(frozen=True, kw_only=True)
class VocoderConfig:
    """Size of the vocoder. The defaults are the demo voice's."""

    channels: int = 128
    dilations: tuple[int, ...] = (1, 2, 4, 1, 2)
    """Distance in frames between the three taps of each block of the network."""
    lookahead_frames: int = 0
    """Frames of future that the network sees: each block takes one dilation of them while they last, the others are
    causal.
    """
    per_bin: bool = False
    """The network also filters pulses and noise in every DFT bin, the pulses' phases included; else the noise alone, in
    mel bands.
    """
    refinements: int = 2
    """How often the frames are overlapped and analysed again."""
    voiced_noise_nepers: tuple[float, float] = (-4.0, 0.0)
    """Noise against pulses in voiced frames before training, below 1 kHz and above `noise_from_hz`; in between by
    octaves.
    """
    noise_from_hz: float = 8_000.0
    dispersion_ms: float = 1.0
    """Delay of the pulses' low frequencies, which makes them as peaked as a voice's."""
    dispersion_hz: float = 1_000.0
    """The delay falls by 1 / e over this."""


LIGHT_24K = VocoderConfig(channels=512, dilations=(1, 2, 4) * 3, lookahead_frames=6, per_bin=True)
"""Full size: 10.4 M parameters and 4.5 GFLOP per second of audio, a fifteenth of the authors' vocoder."""


class Vocoder(nn.Module):
    """mel (B, T, M), f0_hz (B, T), source (B, L, 1), noise (B, L) -> audio (B, L), L = hop_length * T.

    `source` is the pulse train and `noise` the standard normal noise of `runtime.source`. Before training the noise
    in each band is a constant of the configuration.
    """

    source_kind, source_channels = "pulse", 1

    def __init__(self, config: VocoderConfig, spec: AudioSpec) -> None:
        super().__init__()
        self.config = config
        self.spec = spec
        M, C, K = spec.n_mels, config.channels, config.refinements
        self.spectra = FrameSpectra(spec)
        pulse_dft = dispersed_dft(spec, config.dispersion_ms, config.dispersion_hz)
        self.register_buffer("pulse_dft", torch.from_numpy(pulse_dft), persistent=False)
        self.noise_prior = nn.Parameter(torch.from_numpy(voiced_noise(spec, config)))
        F = spec.n_fft // 2 + 1
        self.n_filter = 3 * F if config.per_bin else M
        self.stem = nn.Linear(3 * M + 2 + (2 * F if config.per_bin else 0), C)
        futures = futures_of(config.dilations, config.lookahead_frames)
        blocks = zip(config.dilations, futures, strict=True)
        self.blocks = nn.ModuleList(CausalBlock(C, dilation, 0.0, future) for dilation, future in blocks)
        self.head = nn.Linear(C, self.n_filter + (1 + K) * M)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        # Beyond 1, corrections and steps overshoot: fewer refinements do (Perraudin et al. 2013 for the momentum).
        self.step_sizes = nn.Parameter(torch.full((K, M), 1.3))
        self.momentum = nn.Parameter(torch.ones(max(K - 1, 0)))

    @property
    def mel_context_frames(self) -> tuple[int, int]:
        """Mel and F0 frames before and after a hop of audio that reach it: (past, future)."""
        refinements = self.config.refinements
        past, future = (sum(getattr(block, side) for block in self.blocks) for side in ("past", "future"))
        return 1 + 2 * refinements + past, (2 if refinements else 1) + future

    @property
    def context_frames(self) -> tuple[int, int]:
        """Hops before and after a hop of audio that reach it through any input: (past, future).

        Pulses and noise reach two hops further ahead than mel and F0. Both are known as soon as F0 is, which comes
        earlier than mel; a stream may repeat its last mel frame for those two.
        """
        past, future = self.mel_context_frames
        return past + HOPS_PER_WINDOW // 2 + 1, future + HOPS_PER_WINDOW // 2

    @property
    def lookahead_ms(self) -> float:
        """From a sample to the centre of the last mel frame it depends on, at most."""
        return (self.mel_context_frames[1] + 0.5) * self.spec.hop_length / self.spec.sample_rate * 1e3

    def forward(self, mel: Tensor, f0_hz: Tensor, source: Tensor, noise: Tensor) -> Tensor:
        with full_precision(mel.device):  # bf16 is a noise floor of -50 dB in a Fourier transform
            target = _with_edges(mel * math.log(self.spec.mel_log_base))  # nepers, frames -1 .. T
            pulses = self.spectra.analyse(source[..., 0], cast(Tensor, self.pulse_dft))
            hiss = self.spectra.analyse(noise)
            voiced, features = self.describe(target, _with_edges(f0_hz[..., None]), pulses, hiss)
        estimate = self.estimate(features).float()
        with full_precision(mel.device):
            filters, *corrections = estimate.split(
                [self.n_filter, *[self.spec.n_mels] * (1 + self.config.refinements)], -1
            )
            excitation = self.mix(target, voiced, pulses, hiss, filters)
            return self.spectra.overlap_add(self.match(target, excitation, corrections))

    def describe(self, target: Tensor, f0_hz: Tensor, pulses: Tensor, hiss: Tensor) -> tuple[Tensor, Tensor]:
        """Whether each frame is voiced, (B, T', 1), and what the network sees of it, (B, T', stem)."""
        voiced = (f0_hz > 0.0).to(target.dtype)
        pitch = torch.log(f0_hz.clamp(min=1.0) / 220.0) * voiced
        seen = [target, *(self.spectra.log_mel(x, _ABSENT) for x in (pulses, hiss))]
        if self.config.per_bin:
            seen += [self.spectra.log_magnitude(x, _ABSENT) for x in (pulses, hiss)]
        return voiced, torch.cat([*((level + 5.0) / 3.0 for level in seen), voiced, pitch], dim=-1)

    def estimate(self, features: Tensor) -> Tensor:
        """Filters, then a correction of the log gains of each pass: (B, T', head)."""
        x = self.stem(features)
        for block in self.blocks:
            x = block(x)
        return self.head(x)

    def mix(self, target: Tensor, voiced: Tensor, pulses: Tensor, hiss: Tensor, filters: Tensor) -> Tensor:
        """Spectra (B, T', 2 F) of pulses plus noise, silent where the target is."""
        noise_log_gain = voiced * self.noise_prior
        if self.config.per_bin:
            pulse_log_gain, pulse_phase, ratio = filters.chunk(3, dim=-1)
            pulses = turned(
                pulses * _twice(torch.exp(pulse_log_gain.clamp(-_MAX_LOG_GAIN, _MAX_LOG_GAIN))), pulse_phase
            )
            noise_log_gain = noise_log_gain @ self.spectra.spread + ratio
            noise_gain = torch.exp(noise_log_gain.clamp(-_MAX_LOG_GAIN, _MAX_LOG_GAIN))
        else:
            noise_log_gain = noise_log_gain + filters
            noise_gain = torch.exp(noise_log_gain.clamp(-_MAX_LOG_GAIN, _MAX_LOG_GAIN) @ self.spectra.spread)
        above_floor = torch.exp(target) / self.spec.mel_floor - 1.0
        audible = (above_floor / _SILENCE_RAMP).clamp(0.0, 1.0) @ self.spectra.spread
        return (pulses + hiss * _twice(noise_gain)) * _twice(audible)

    def match(self, target: Tensor, excitation: Tensor, corrections: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The frames whose overlapped mel is close to `target`."""
        error = target - self.spectra.log_mel(excitation, _ABSENT)
        gains = (error + corrections[0]).clamp(-2.0 * _MAX_LOG_GAIN, _MAX_LOG_GAIN)
        frames = upcoming = self.spectra.filtered(excitation, gains)
        before = None
        for index, correction in enumerate(corrections[1:]):
            # Frame m + 1 stays as first estimated: its refinements would know of m + 2.
            heard = self.spectra.overheard(frames, upcoming)
            refined = heard if before is None else heard + self.momentum[index - 1] * (heard - before)
            before = heard
            error = target - self.spectra.log_mel(refined, self.spec.mel_floor)
            gains = (self.step_sizes[index] * error + correction).clamp(-_MAX_LOG_GAIN, _MAX_LOG_CORRECTION)
            frames = self.spectra.filtered(refined, gains)
        return frames


def voiced_noise(spec: AudioSpec, config: VocoderConfig) -> NDArray[np.float32]:
    """Log gain of the noise in voiced frames before training, (M,)."""
    low, high = config.voiced_noise_nepers
    share = np.log(mel_centres_hz(spec) / 1000.0) / np.log(config.noise_from_hz / 1000.0)
    return (low + (high - low) * share.clip(0.0, 1.0)).astype(np.float32)


def turned(spectra: Tensor, phase: Tensor) -> Tensor:
    """Spectra (B, T', 2 F) with `phase` (B, T', F) in radians added."""
    real, imaginary = spectra.chunk(2, dim=-1)
    cosine, sine = torch.cos(phase), torch.sin(phase)
    return torch.cat([real * cosine - imaginary * sine, real * sine + imaginary * cosine], dim=-1)


def _twice(x: Tensor) -> Tensor:
    """Per bin -> per real and imaginary part."""
    return torch.cat([x, x], dim=-1)


def _with_edges(x: Tensor) -> Tensor:
    return torch.cat([x[:, :1], x, x[:, -1:]], dim=1)


MATCHING, LIGHT, NSF_HIFIGAN = "matching", "light", "nsf-hifigan"
KINDS: dict[str, VocoderConfig | HifiGanConfig] = {
    MATCHING: VocoderConfig(),
    LIGHT: LIGHT_24K,
    NSF_HIFIGAN: M4SINGER_24K,
}
"""Sizes of each kind unless told. "matching" is the demo voice's, "light" the same with a network of full size."""

AnyVocoder = Vocoder | NsfHifiGan


def vocoder_config(kind: str, changes: Mapping[str, Any], where: str) -> VocoderConfig | HifiGanConfig:
    """The sizes of `kind` with those in `changes` instead; a checkpoint's are all there. `ConfigError` for an unknown
    kind or size; `where` is the place named in it.
    """
    if kind not in KINDS:
        raise ConfigError(f"{where}: there is no vocoder {kind!r}\nhint: kind is one of {', '.join(KINDS)}")
    usual = KINDS[kind]
    return from_mapping(type(usual), {**vars(usual), **changes}, f"{where}.network")


def build_vocoder(config: VocoderConfig | HifiGanConfig, spec: AudioSpec) -> AnyVocoder:
    """The network, untrained. Raises `ConfigError` where it is for other mels than those of `spec`."""
    if isinstance(config, VocoderConfig):
        return Vocoder(config, spec)
    for name in ("sample_rate", "n_mels", "hop_length"):
        if getattr(config, name) != getattr(spec, name):
            raise ConfigError(
                f"this HiFi-GAN has {name} {getattr(config, name)}, the audio settings {getattr(spec, name)}\n"
                "hint: set sample_rate, n_mels and upsample_rates, whose product is hop_length, under [vocoder.network]"
            )
    return NsfHifiGan(config)
