"""Frames of audio as spectra, mel bands and back: the linear algebra of the vocoder.

Fourier transforms are matrix products, so that they export.
"""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ...runtime.audio.features import hann, mel_centres_hz, mel_filterbank
from ...runtime.audio.spec import AudioSpec
from ..content.encoder import windowed_dft
from ..errors import ConfigError

HOPS_PER_WINDOW = 4
_MAGNITUDE_FLOOR = 1e-9
"""Under the square root of the authors' mel (CoMoSVC mel_processing.py)."""

_LEAD = 8
"""Samples of delay that leave room for the all-pass filter's beginning."""

Halves = tuple[Tensor, Tensor]
"""The hop before and the hop after each frame's centre, (B, T', hop) each."""


class FrameSpectra(nn.Module):
    """Analysis through the mel's own window, synthesis of the middle half of each frame.

    A clip of T hops has T' = T + 2 frames, -1 .. T, of which frame m is centred on sample hop * (m + 1/2). Spectra
    (B, T', 2 F) hold the real parts of F bins, then the imaginary parts. With gains of one, analysis and synthesis
    give the clip back.
    """

    def __init__(self, spec: AudioSpec) -> None:
        super().__init__()
        if not spec.n_fft == spec.win_length == HOPS_PER_WINDOW * spec.hop_length:
            raise ConfigError(
                f"the vocoder needs n_fft = win_length = {HOPS_PER_WINDOW} * hop_length, "
                f"got {spec.n_fft}, {spec.win_length} and {HOPS_PER_WINDOW} * {spec.hop_length}"
            )
        self.hop = spec.hop_length
        self.mel_floor = spec.mel_floor
        matrices = {
            "dft": windowed_dft(spec.n_fft),
            "inverse": central_inverse_dft(spec.n_fft),
            "fade_in": hann(spec.n_fft // 2)[: self.hop],
            "basis": mel_filterbank(spec).T,
            "spread": interpolation(spec),
        }
        for name, values in matrices.items():
            self.register_buffer(name, torch.from_numpy(values.astype(np.float32)), persistent=False)
        self.dft: Tensor
        self.inverse: Tensor
        self.fade_in: Tensor
        self.basis: Tensor
        self.spread: Tensor

    def analyse(self, audio: Tensor, dft: Tensor | None = None) -> Tensor:
        """Spectra (B, T', 2 F) of (B, L), silence before and after. `dft` may reach hops before the window."""
        dft = self.dft if dft is None else dft
        reach, n_blocks = (HOPS_PER_WINDOW + 1) * self.hop // 2, dft.shape[0] // self.hop
        earlier = (n_blocks - HOPS_PER_WINDOW) * self.hop
        blocks = F.pad(audio, (reach + earlier, reach)).reshape(audio.shape[0], -1, self.hop)
        n_frames = blocks.shape[1] - n_blocks + 1
        return torch.cat([blocks[:, k : k + n_frames] for k in range(n_blocks)], dim=-1) @ dft

    def log_magnitude(self, spectra: Tensor, floor: float) -> Tensor:
        """Natural logarithm of the magnitude of each bin (B, T', F)."""
        real, imaginary = spectra.chunk(2, dim=-1)
        # Not added to the power: the exporter takes a number so small for 0.
        return torch.log((real.square() + imaginary.square()).clamp(min=floor**2)) / 2.0

    def log_mel(self, spectra: Tensor, floor: float) -> Tensor:
        """Natural logarithm of the mel (B, T', M)."""
        real, imaginary = spectra.chunk(2, dim=-1)
        magnitude = torch.sqrt(real.square() + imaginary.square() + _MAGNITUDE_FLOOR)
        return torch.log((magnitude @ self.basis).clamp(min=floor))

    def filtered(self, spectra: Tensor, log_gains: Tensor) -> Halves:
        """The spectra times the gains (B, T', M) as samples, without a window."""
        gain = torch.exp(log_gains @ self.spread)
        samples = (spectra * torch.cat([gain, gain], dim=-1)) @ self.inverse
        return samples[..., : self.hop], samples[..., self.hop :]

    def overlap_add(self, frames: Halves) -> Tensor:
        """Audio (B, L) of the frames, each faded in and out."""
        rising, falling = self._faded(frames)
        blocks = rising[:, 1:] + falling[:, :-1]  # block j is the hop that ends at frame j's centre
        return blocks.reshape(blocks.shape[0], -1)[:, self.hop // 2 : -(self.hop // 2)]

    def overheard(self, frames: Halves, upcoming: Halves) -> Tensor:
        """Spectra (B, T', 2 F) of the audio as frame m can know it: `frames` up to m, then frame m + 1 of
        `upcoming`, held.
        """
        rising, falling = self._faded(frames)
        next_before, next_after = (next_frame(half) for half in upcoming)
        window = [
            previous_frame(previous_frame(falling) + rising),
            previous_frame(falling) + rising,
            falling + next_before * self.fade_in,
            next_after,
        ]
        return torch.cat(window, dim=-1) @ self.dft

    def _faded(self, frames: Halves) -> Halves:
        before, after = frames
        return before * self.fade_in, after * (1.0 - self.fade_in)


def next_frame(x: Tensor) -> Tensor:
    """(B, T', C) moved one frame, so that index m holds frame m + 1; the last frame is repeated."""
    return torch.cat([x[:, 1:], x[:, -1:]], dim=1)


def previous_frame(x: Tensor) -> Tensor:
    """(B, T', C) moved one frame, so that index m holds frame m - 1; the first frame is repeated."""
    return torch.cat([x[:, :1], x[:, :-1]], dim=1)


def central_inverse_dft(n_fft: int) -> NDArray[np.float64]:
    """Inverse real DFT as a matrix (2 F, n_fft / 2) giving the middle half of the frame, the analysis' Hann window
    undone.
    """
    bins, samples = np.arange(n_fft // 2 + 1), np.arange(n_fft // 4, 3 * n_fft // 4)
    turns = np.outer(bins, samples) / n_fft
    weight = np.where((bins == 0) | (bins == n_fft // 2), 1.0, 2.0)[:, None] / n_fft
    basis = np.concatenate([weight * np.cos(2.0 * np.pi * turns), -weight * np.sin(2.0 * np.pi * turns)])
    return basis / hann(n_fft)[samples]


def interpolation(spec: AudioSpec) -> NDArray[np.float64]:
    """Linear interpolation from mel bands to DFT bins, (M, F), held at the ends."""
    bins_hz = np.linspace(0.0, spec.sample_rate / 2, spec.n_fft // 2 + 1)
    return np.stack([np.interp(bins_hz, mel_centres_hz(spec), row) for row in np.eye(spec.n_mels)])


def dispersed_dft(spec: AudioSpec, delay_ms: float, corner_hz: float) -> NDArray[np.float32]:
    """All-pass filter, Hann window and real DFT as one matrix (5 hops, 2 F), of a frame and the hop before it.

    The filter delays low frequencies most, by delay_ms * exp(-f / corner_hz): a pulse becomes a short falling chirp,
    about as peaked as a voice. It is the same for all frames, so that nothing is modulated.
    """
    hop, n_fft = spec.hop_length, 2 * HOPS_PER_WINDOW * spec.hop_length
    turns = np.arange(n_fft // 2 + 1) / n_fft
    delays = delay_ms * 1e-3 * spec.sample_rate * np.exp(-turns * spec.sample_rate / corner_hz)
    phase = 2.0 * np.pi / n_fft * (np.cumsum(delays) - (delays + delays[0]) / 2.0)
    if phase[-1] > 0.0:
        phase *= np.ceil(phase[-1] / np.pi) * np.pi / phase[-1]  # real at half the rate, or the filter would ring
    taps = np.fft.irfft(np.exp(-1j * (phase + 2.0 * np.pi * turns * _LEAD)), n_fft)[:hop]
    filtering = np.zeros((spec.n_fft + hop, spec.n_fft))
    for delay, tap in enumerate(taps):
        filtering[np.arange(spec.n_fft) + hop - delay, np.arange(spec.n_fft)] = tap
    return (filtering @ windowed_dft(spec.n_fft)).astype(np.float32)
