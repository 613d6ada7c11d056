"""Losses of a vocoder: mel and spectral distances, and discriminators."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.parametrizations import weight_norm

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


_SLOPE = 0.1
_CENTRE, _SPREAD = -4.0, 4.0
"""Log spectra of singing lie about there, in nepers."""

Verdict = tuple[Tensor, list[Tensor]]
"""Scores, 1 for a recording and 0 for an imitation, and what the layers before them saw."""


@dataclass(frozen=True, kw_only=True)
class AdversaryConfig:
    """Size and weight of the adversary. The defaults are the published sizes, for a GPU."""

    periods: tuple[int, ...] = (2, 3, 5, 7, 11)
    """In samples; prime to each other, so that no two see the same."""
    period_channels: tuple[int, ...] = (32, 128, 512, 1024, 1024)
    resolutions: tuple[int, ...] = (512, 1024, 2048)
    """Windows in samples."""
    resolution_channels: int = 32
    weight: float = 0.05
    """Of being found out, against the distance to the recording in nepers."""
    feature_weight: float = 0.1
    """Of the distance between what the layers see of the recording and of the imitation."""


class PeriodDiscriminator(nn.Module):
    """Audio (B, L), folded to rows of `period` samples."""

    def __init__(self, period: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.period = period
        strides = (*[3] * (len(channels) - 1), 1)
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(inputs, outputs, (5, 1), (stride, 1), (2, 0)))
            for inputs, outputs, stride in zip((1, *channels), channels, strides, strict=False)
        )
        self.last = weight_norm(nn.Conv2d(channels[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, audio: Tensor) -> Verdict:
        audio = F.pad(audio, (0, -audio.shape[1] % self.period))
        return _judge(self, audio.reshape(audio.shape[0], 1, -1, self.period))


class ResolutionDiscriminator(nn.Module):
    """Audio (B, L) as log magnitudes of windows of `n_fft` samples."""

    def __init__(self, n_fft: int, channels: int) -> None:
        super().__init__()
        self.n_fft = n_fft
        strides = (1, 2, 2, 2)
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(1 if i == 0 else channels, channels, (9, 3), (stride, 1), (4, 1)))
            for i, stride in enumerate(strides)
        )
        self.last = weight_norm(nn.Conv2d(channels, 1, 3, padding=1))

    def forward(self, audio: Tensor) -> Verdict:
        return _judge(self, (log_spectrum(audio, self.n_fft)[:, None] - _CENTRE) / _SPREAD)


def _judge(network: "PeriodDiscriminator | ResolutionDiscriminator", x: Tensor) -> Verdict:
    seen = []
    for layer in network.layers:
        x = F.leaky_relu(layer(x), _SLOPE)
        seen.append(x)
    return network.last(x), seen


class Adversary(nn.Module):
    """All discriminators. Both sides learn in one step, each from the other as it was before it: the vocoder's loss
    holds the discriminators' weights as constants, the discriminators' loss the vocoder's audio.
    """

    def __init__(self, config: AdversaryConfig) -> None:
        super().__init__()
        self.config = config
        self.discriminators = nn.ModuleList(
            [
                *(PeriodDiscriminator(period, config.period_channels) for period in config.periods),
                *(ResolutionDiscriminator(n_fft, config.resolution_channels) for n_fft in config.resolutions),
            ]
        )

    def forward(self, audio: Tensor, recording: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Loss of both sides for the vocoder's `audio` and the `recording`, (B, L) each, and its parts."""
        duels = torch.stack([torch.stack(self._duel(d, audio, recording)) for d in self.discriminators])
        found_out, features, telling = duels.mean(dim=0)
        loss = self.config.weight * found_out + self.config.feature_weight * features + telling
        parts = {"found_out": found_out, "features": features, "telling": telling}
        return loss, {name: part.detach() for name, part in parts.items()}

    @staticmethod
    def _duel(discriminator: nn.Module, audio: Tensor, recording: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Least-squares losses (Mao et al. 2017): the vocoder's, the distance of the features, the discriminator's."""
        n = len(recording)
        both, seen = discriminator(torch.cat([recording, audio.detach()]))
        telling = (both[:n] - 1.0).square().mean() + both[n:].square().mean()
        constants = {name: weight.detach() for name, weight in discriminator.named_parameters()}
        score, imitated = functional_call(discriminator, constants, (audio,))
        distances = [(theirs[:n].detach() - ours).abs().mean() for theirs, ours in zip(seen, imitated, strict=True)]
        return (score - 1.0).square().mean(), torch.stack(distances).mean(), telling
