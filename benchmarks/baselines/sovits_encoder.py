"""so-vits-svc 4.1's prior: content and F0 to the mean and the spread of the latent.

A VITS text encoder (Kim et al. 2021) whose attention knows relative positions up to a window (Shaw et al. 2018).
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

F0_BINS, F0_MIN_HZ, F0_MAX_HZ = 256, 50.0, 1100.0


@dataclass(frozen=True, kw_only=True)
class SovitsConfig:
    """Sizes, under the names of the public `config_template.json`. The defaults are its own."""

    inter_channels: int = 192
    hidden_channels: int = 192
    filter_channels: int = 768
    n_heads: int = 2
    n_layers: int = 6
    kernel_size: int = 3
    gin_channels: int = 768
    ssl_dim: int = 768
    n_speakers: int = 200
    n_flow_layer: int = 4
    window_size: int = 4
    noise_scale: float = 0.4
    """Of the latent: the command's default."""


def coarse_f0(f0_hz: Tensor) -> Tensor:
    """Bin of each F0, 1 to 255 on the mel scale; 1 where unvoiced, 255 from the highest on."""
    low, high = (1127.0 * math.log(1.0 + f0 / 700.0) for f0 in (F0_MIN_HZ, F0_MAX_HZ))
    scale = (F0_BINS - 2) / (high - low)
    mel = 1127.0 * torch.log(1.0 + f0_hz / 700.0)
    return ((mel - low) * scale + 1.0).round().clamp(1, F0_BINS - 1).int()


class ChannelNorm(nn.Module):
    """Layer norm over the channels of (B, C, T)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.transpose(1, 2), self.gamma.shape, self.gamma, self.beta).transpose(1, 2)


class RelativeAttention(nn.Module):
    """Self-attention with an embedding of key and value for each distance up to `window`. (B, C, T) -> (B, C, T).

    The scores of all 2 T - 1 distances are computed, most with zeros, and shifted into place: so does the original.
    """

    def __init__(self, channels: int, n_heads: int, window: int) -> None:
        super().__init__()
        self.n_heads, self.window = n_heads, window
        self.conv_q, self.conv_k, self.conv_v, self.conv_o = (nn.Conv1d(channels, channels, 1) for _ in range(4))
        shape = (1, 2 * window + 1, channels // n_heads)
        self.emb_rel_k, self.emb_rel_v = (nn.Parameter(torch.randn(shape) * shape[2] ** -0.5) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self._heads(conv(x)) for conv in (self.conv_q, self.conv_k, self.conv_v))
        length = x.shape[2]
        q = q / math.sqrt(q.shape[3])
        scores = q @ k.transpose(2, 3)
        scores = scores + by_position(q @ self._distances(self.emb_rel_k, length).transpose(1, 2))
        weights = scores.softmax(dim=3)
        y = weights @ v + by_distance(weights) @ self._distances(self.emb_rel_v, length)
        return self.conv_o(y.transpose(2, 3).reshape(x.shape))

    def _heads(self, x: Tensor) -> Tensor:
        """(B, C, T) -> (B, heads, T, C / heads)."""
        batch, channels, length = x.shape
        return x.view(batch, self.n_heads, channels // self.n_heads, length).transpose(2, 3)

    def _distances(self, embedding: Tensor, length: int) -> Tensor:
        """Of distances 1 - T to T - 1: zeros beyond the window, and cut where the window is longer. (1, 2 T - 1, C)."""
        extra = length - self.window - 1
        return F.pad(embedding, (0, 0, extra, extra))


def by_position(x: Tensor) -> Tensor:
    """From query and distance to query and key: y[i, j] = x[i, T - 1 + j - i]. (…, T, 2 T - 1) -> (…, T, T).

    With one column more, a row begins one place further left in memory than the one before it.
    """
    batch, heads, length, _ = x.shape
    flat = F.pad(x, (0, 1)).view(batch, heads, 2 * length * length)
    return flat[..., length - 1 : -1].view(batch, heads, length, 2 * length - 1)[..., :length]


def by_distance(x: Tensor) -> Tensor:
    """From query and key to query and distance: y[i, T - 1 + j - i] = x[i, j], else 0. (…, T, T) -> (…, T, 2 T - 1)."""
    batch, heads, length, _ = x.shape
    flat = F.pad(x, (0, length - 1)).view(batch, heads, length * (2 * length - 1))
    return F.pad(flat, (length - 1, 1)).view(batch, heads, length, 2 * length)[..., :-1]


class FeedForward(nn.Module):
    """Two convolutions with a ReLU between. (B, C, T) -> (B, C, T)."""

    def __init__(self, channels: int, filter_channels: int, kernel: int) -> None:
        super().__init__()
        self.conv_1 = nn.Conv1d(channels, filter_channels, kernel, padding=kernel // 2)
        self.conv_2 = nn.Conv1d(filter_channels, channels, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_2(self.conv_1(x).relu())


class AttentionEncoder(nn.Module):
    """Attention and feed-forward in turns, each added and then normalised. (B, C, T) -> (B, C, T)."""

    def __init__(self, config: SovitsConfig) -> None:
        super().__init__()
        channels, layers = config.hidden_channels, range(config.n_layers)
        self.attn_layers = nn.ModuleList(
            RelativeAttention(channels, config.n_heads, config.window_size) for _ in layers
        )
        self.norm_layers_1 = nn.ModuleList(ChannelNorm(channels) for _ in layers)
        self.ffn_layers = nn.ModuleList(
            FeedForward(channels, config.filter_channels, config.kernel_size) for _ in layers
        )
        self.norm_layers_2 = nn.ModuleList(ChannelNorm(channels) for _ in layers)

    def forward(self, x: Tensor) -> Tensor:
        parts = zip(self.attn_layers, self.norm_layers_1, self.ffn_layers, self.norm_layers_2, strict=True)
        for attention, norm_1, feed_forward, norm_2 in parts:
            x = norm_1(x + attention(x))
            x = norm_2(x + feed_forward(x))
        return x


class TextEncoder(nn.Module):
    """Embedded content (B, C, T) and f0_hz (B, T) -> mean and log of the spread, (B, inter_channels, T) each."""

    def __init__(self, config: SovitsConfig) -> None:
        super().__init__()
        self.proj = nn.Conv1d(config.hidden_channels, 2 * config.inter_channels, 1)
        self.f0_emb = nn.Embedding(F0_BINS, config.hidden_channels)
        self.enc_ = AttentionEncoder(config)

    def forward(self, x: Tensor, f0_hz: Tensor) -> tuple[Tensor, Tensor]:
        x = self.enc_(x + self.f0_emb(coarse_f0(f0_hz)).transpose(1, 2))
        mean, log_spread = self.proj(x).chunk(2, dim=1)
        return mean, log_spread
