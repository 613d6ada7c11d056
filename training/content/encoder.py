"""The content encoder: which phone sounds in each 10 ms of a voice, independent of singer and pitch.

A small convolutional network over log-mel frames, trained on phone labels. What it exports is the posteriorgram: 33
numbers per frame carry the words and next to nothing of the singer. It sees a few frames ahead and no more, so that
live use needs no other encoder.
"""

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ...runtime.audio.features import hann, hz_to_mel, mel_to_hz
from ...runtime.audio.spec import AudioSpec
from ..corpus import PHONES

_POWER_FLOOR = 1e-5
"""Power of white noise at -70 dBFS in one DFT bin: what is quieter counts as silence."""
_LOG_SCALE = 8.0
_TAPS = 3
_FAINT = 0.02
"""Mean feature, some 5 % of a sung one, below which a running mean fades to that of silence."""


@dataclass(frozen=True, kw_only=True)
class ContentConfig:
    """Size of the content encoder. The defaults have 0.56 M parameters and 1 s of past."""

    n_phones: int = len(PHONES)
    n_mels: int = 60
    """60 Slaney bands lie 49 Hz apart below 1 kHz: as fine as the 50 Hz bins of a 20 ms window allow."""
    f_min_hz: float = 40.0
    f_max_hz: float = 7900.0
    mean_frames: int = 0
    """Length of the running mean that each frame is compared with: it holds voice, microphone and level. 0: none."""
    channels: int = 128
    dilations: tuple[int, ...] = (1, 2, 4, 8, 1, 2, 4, 8)
    """Distance in frames between the three taps of each block."""
    lookahead_frames: int = 2
    """Frames of future beyond the stem's one. Each block takes one dilation of them while they last; the others are
    causal.
    """
    dropout: float = 0.1


def mel_edges_hz(config: ContentConfig) -> NDArray[np.float64]:
    """Lower edge, centres and upper edge of the encoder's mel bands, (n_mels + 2,) in Hz."""
    return mel_to_hz(np.linspace(hz_to_mel(config.f_min_hz), hz_to_mel(config.f_max_hz), config.n_mels + 2))


def triangular_filters(edges_hz: NDArray[np.float64], bins_hz: NDArray[np.float64]) -> NDArray[np.float32]:
    """Triangles of peak 1 between every third of `edges_hz` (M + 2,), sampled at `bins_hz` (F,): (F, M)."""
    rising = (bins_hz[:, None] - edges_hz[:-2]) / np.diff(edges_hz)[:-1]
    falling = (edges_hz[2:] - bins_hz[:, None]) / np.diff(edges_hz)[1:]
    return np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)


def windowed_dft(length: int) -> NDArray[np.float32]:
    """Hann window and real DFT as one matrix, (length, 2 F): real parts of F = length / 2 + 1 bins, then imaginary."""
    turns = np.outer(np.arange(length), np.arange(length // 2 + 1)) / length
    basis = np.concatenate([np.cos(2 * np.pi * turns), -np.sin(2 * np.pi * turns)], axis=1)
    return (hann(length)[:, None] * basis).astype(np.float32)


def log_mel(power: Tensor, filters: Tensor) -> Tensor:
    """Log-mel features (B, S, M) of a power spectrum (B, S, F); silence is 0, so that zero padding is silence."""
    return torch.log1p(power @ filters / _POWER_FLOOR) / _LOG_SCALE


def running_mean(features: Tensor, n_frames: int) -> Tensor:
    """Mean of (B, S, M) over the last `n_frames` frames, the present one included, each as heavy as it is loud.

    So silence counts for nothing, be it a rest or the padding before the clip.
    """
    loudness = features.mean(dim=-1, keepdim=True)
    means = _trailing_sum(torch.cat([features * loudness, loudness], dim=-1), n_frames) / n_frames
    return means[..., :-1] / (means[..., -1:] + _FAINT)


def _trailing_sum(x: Tensor, n_frames: int) -> Tensor:
    """Sum of (B, S, M) over the last `n_frames` frames, from sums over 1, 2, 4, … of them: a pooling or a convolution
    over 200 frames takes longer than the whole network.
    """
    total, covered = torch.zeros_like(x), 0
    block, width = x, 1
    while covered < n_frames:
        if n_frames & width:
            total = total + _delayed_by(block, covered)
            covered += width
        block = block + _delayed_by(block, width)
        width *= 2
    return total


def _delayed_by(x: Tensor, n_frames: int) -> Tensor:
    return F.pad(x, (0, 0, n_frames, 0))[:, : x.shape[1]]


class CausalBlock(nn.Module):
    """Residual block around a convolution with three taps `dilation` frames apart, the last `future` frames ahead.

    The convolution is one matrix product over three delayed copies: on a CPU twice as fast as a dilated Conv1d with the
    transpositions that per-frame normalisation would ask of it.
    """

    def __init__(self, channels: int, dilation: int, dropout: float, future: int = 0) -> None:
        super().__init__()
        self.past, self.future = (_TAPS - 1) * dilation - future, future
        self.dilation = dilation
        self.norm = nn.LayerNorm(channels)
        self.mix = nn.Linear(_TAPS * channels, channels)
        self.out = nn.Linear(channels, channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:  # (B, S, channels)
        h = F.pad(self.norm(x), (0, 0, self.past, self.future))
        return x + self.dropout(self.out(F.gelu(self.mix(_delayed(h, self.dilation)))))


def _delayed(padded: Tensor, dilation: int) -> Tensor:
    """Three copies of (B, S + 2 dilation, C) side by side, each `dilation` frames later than the last: (B, S, 3 C)."""
    n_frames = padded.shape[1] - (_TAPS - 1) * dilation
    return torch.cat([padded[:, k * dilation : k * dilation + n_frames] for k in range(_TAPS)], dim=-1)


class ContentEncoder(nn.Module):
    """Audio (B, N) at `spec.content_sample_rate` -> posteriorgram (B, S, C), S = N // hop, N >= hop.

    Frame s is centred on sample hop * s + hop / 2 and analysed through a window of two hops. A chunk with
    `context_frames` of real audio around it gives the same frames as the whole clip.
    """

    def __init__(self, config: ContentConfig, spec: AudioSpec) -> None:
        super().__init__()
        self.config = config
        self.hop = spec.content_hop_length
        self.sample_rate = spec.content_sample_rate
        self.register_buffer("dft", torch.from_numpy(windowed_dft(2 * self.hop)), persistent=False)
        filters = triangular_filters(mel_edges_hz(config), self.bins_hz)
        self.register_buffer("filters", torch.from_numpy(filters), persistent=False)
        n_taps = _TAPS + 1 if config.mean_frames else _TAPS
        self.stem = nn.Linear(n_taps * config.n_mels, config.channels)
        self.blocks = nn.ModuleList(
            CausalBlock(config.channels, dilation, config.dropout, future)
            for dilation, future in zip(
                config.dilations, futures_of(config.dilations, config.lookahead_frames), strict=True
            )
        )
        self.norm = nn.LayerNorm(config.channels)
        self.head = nn.Linear(config.channels, config.n_phones)

    @property
    def n_content(self) -> int:
        """C."""
        return self.config.n_phones

    @property
    def min_samples(self) -> int:
        """Fewest samples that it takes."""
        return self.hop

    @property
    def bins_hz(self) -> NDArray[np.float64]:
        """Frequencies of the power spectrum's bins, (F,)."""
        return np.arange(self.hop + 1, dtype=np.float64) * self.sample_rate / (2 * self.hop)

    @property
    def context_frames(self) -> tuple[int, int]:
        """Hops of audio before and after a frame's own that reach it, the window's halves included: (past, future)."""
        future = sum(futures_of(self.config.dilations, self.config.lookahead_frames))
        blocks = (_TAPS - 1) * sum(self.config.dilations) - future
        return blocks + max(1, self.config.mean_frames - 1) + 1, future + 2

    @property
    def lookahead_ms(self) -> float:
        """From a frame's centre to the last sample it depends on: half a window, the stem's frame, and the blocks'."""
        return self.context_frames[1] * self.hop / self.sample_rate * 1e3

    def power(self, audio: Tensor) -> Tensor:
        """Power spectrum (B, S, F) of audio (B, N)."""
        n_frames = audio.shape[1] // self.hop
        padded = F.pad(audio, (self.hop // 2, self.hop // 2))[:, : (n_frames + 1) * self.hop]
        hops = padded.reshape(audio.shape[0], n_frames + 1, self.hop)
        spectrum = torch.cat([hops[:, :-1], hops[:, 1:]], dim=-1) @ cast(Tensor, self.dft)
        real, imaginary = spectrum.split(self.hop + 1, dim=-1)
        return real.square() + imaginary.square()

    def classify(self, features: Tensor) -> Tensor:
        """Logits (B, S, C) of log-mel features (B, S, n_mels)."""
        taps = _delayed(F.pad(features, (0, 0, 1, 1)), 1)
        if self.config.mean_frames:
            mean = running_mean(features, self.config.mean_frames)
            taps = torch.cat([taps - mean.repeat(1, 1, _TAPS), mean], dim=-1)
        x = self.stem(taps)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))

    def logits(self, audio: Tensor) -> Tensor:
        """Unnormalised log-probabilities of the phones, (B, S, C), of audio (B, N)."""
        return self.classify(log_mel(self.power(audio), cast(Tensor, self.filters)))

    def forward(self, audio: Tensor) -> Tensor:
        return self.logits(audio).softmax(dim=-1)


def futures_of(dilations: tuple[int, ...], lookahead_frames: int) -> list[int]:
    """Future frames of each `CausalBlock`: its dilation, as long as the budget lasts."""
    left, futures = lookahead_frames, []
    for dilation in dilations:
        futures.append(dilation if dilation <= left else 0)
        left -= futures[-1]
    return futures


def content_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy in nats, averaged over all frames, of logits (B, S, C) against phone probabilities (B, S, C)."""
    return -(target * logits.float().log_softmax(dim=-1)).sum(dim=-1).mean()
