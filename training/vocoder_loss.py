"""What the vocoder is trained on: the mel it was asked for, and spectra as random as the recording's."""

from collections.abc import Mapping

import torch
from torch import Tensor

from .frame_spectra import FrameSpectra

_RESOLUTIONS = (1024, 2048)
"""Windows in samples that are long enough to tell harmonics from noise, which the mel's own is not."""
_POWER_FLOOR = 1e-10
"""Power of a DFT bin per sample of the window: white noise at -96 dBFS."""
_EDGE_FRAMES = 4
"""Left out at both ends of a crop, where half of the window is silence that the whole clip would not have."""


def vocoder_loss(draws: Tensor, target: Tensor, spectra: FrameSpectra) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Mel distance plus energy distance to `target` (B, L) of two outputs (2, B, L) that differ in noise and phase.

    Of a single output (1, B, L) the second is the plain distance of log spectra. Also gives the two parts, in nepers.
    """
    mel = mel_distance(draws.flatten(0, 1), target.repeat(len(draws), 1), spectra)
    first, second, target = (without_edges(audio, spectra) for audio in (draws[0], draws[-1], target))
    energy = torch.stack([energy_distance(first, second, target, n_fft) for n_fft in _RESOLUTIONS]).mean()
    return mel + energy, {"mel_l1": mel.detach(), "energy": energy.detach()}


def without_edges(audio: Tensor, spectra: FrameSpectra) -> Tensor:
    """(..., L) without what lacks its neighbours in a crop."""
    edge = _EDGE_FRAMES * spectra.hop
    return audio[..., edge:-edge]


def mel_distance(audio: Tensor, target: Tensor, spectra: FrameSpectra) -> Tensor:
    """Mean |difference| of the log-mels of two signals (B, L), in nepers."""
    inside = slice(_EDGE_FRAMES + 1, -_EDGE_FRAMES - 1)
    heard, wanted = (spectra.log_mel(spectra.analyse(x), spectra.mel_floor)[:, inside] for x in (audio, target))
    return (heard - wanted).abs().mean()


def energy_distance(first: Tensor, second: Tensor, target: Tensor, n_fft: int) -> Tensor:
    """E|X - Y| - E|X - X'| / 2 over the log spectra of two draws X, X' and the recording Y, (B, L) each, in nepers.

    Without the second term the best answer to noise is its median, less random than noise; with it the distance is
    least when X is distributed as Y. Gritsenko et al. 2020, "A spectral energy distance for parallel speech synthesis".
    """
    X, other, Y = (log_spectrum(audio, n_fft) for audio in (first, second, target))
    return ((X - Y).abs() + (other - Y).abs() - (X - other).abs()).mean() / 2.0


def log_spectrum(audio: Tensor, n_fft: int) -> Tensor:
    """Log magnitudes of (B, L) in nepers, windows of `n_fft` samples a quarter apart, (B, F, frames)."""
    window = torch.hann_window(n_fft, device=audio.device)
    spectrum = torch.stft(audio, n_fft, n_fft // 4, window=window, center=False, return_complex=True)
    return torch.log(spectrum.real.square() + spectrum.imag.square() + _POWER_FLOOR * n_fft) / 2.0
