"""Networks of so-vits-svc 4.1: prior encoder, flow, decoder."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...training.vocoder.hifigan import HifiGanConfig, NsfHifiGan
from .parts import stretched

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


_KERNEL, _FLOW_DEPTH, _PRE_KERNEL = 5, 4, 5


class WN(nn.Module):
    """Gated convolutions of VITS, all without dilation: x (B, C, T), speaker (B, G, 1) -> (B, C, T)."""

    def __init__(self, channels: int, depth: int, gin_channels: int) -> None:
        super().__init__()
        self.cond_layer = nn.Conv1d(gin_channels, 2 * channels * depth, 1)
        self.in_layers = nn.ModuleList(
            nn.Conv1d(channels, 2 * channels, _KERNEL, padding=_KERNEL // 2) for _ in range(depth)
        )
        self.res_skip_layers = nn.ModuleList(
            nn.Conv1d(channels, channels if n + 1 == depth else 2 * channels, 1) for n in range(depth)
        )

    def forward(self, x: Tensor, speaker: Tensor) -> Tensor:
        biases = self.cond_layer(speaker).chunk(len(self.in_layers), dim=1)
        total = torch.zeros_like(x)
        for n, (convolution, out) in enumerate(zip(self.in_layers, self.res_skip_layers, strict=True)):
            filtered, gate = (convolution(x) + biases[n]).chunk(2, dim=1)
            y = out(torch.tanh(filtered) * torch.sigmoid(gate))
            if n + 1 == len(self.in_layers):
                return total + y
            residual, skip = y.chunk(2, dim=1)
            x, total = x + residual, total + skip
        return total


class CouplingLayer(nn.Module):
    """Backwards: subtracts a mean, computed from one half of the channels, from the other. (B, C, T) -> (B, C, T)."""

    def __init__(self, config: SovitsConfig) -> None:
        super().__init__()
        half, hidden = config.inter_channels // 2, config.hidden_channels
        self.pre = nn.Conv1d(half, hidden, 1)
        self.enc = WN(hidden, _FLOW_DEPTH, config.gin_channels)
        self.post = nn.Conv1d(hidden, half, 1)

    def forward(self, x: Tensor, speaker: Tensor) -> Tensor:
        known, moved = x.chunk(2, dim=1)
        return torch.cat((known, moved - self.post(self.enc(self.pre(known), speaker))), dim=1)


class Flip(nn.Module):
    """The channels in reverse order."""

    def forward(self, x: Tensor, _: Tensor) -> Tensor:
        return x.flip(1)


class Flow(nn.Module):
    """Backwards: from the prior's latent to the decoder's. z (B, C, T), speaker (B, G, 1) -> (B, C, T)."""

    def __init__(self, config: SovitsConfig) -> None:
        super().__init__()
        layers = [layer for _ in range(config.n_flow_layer) for layer in (CouplingLayer(config), Flip())]
        self.flows = nn.ModuleList(layers)

    def forward(self, z: Tensor, speaker: Tensor) -> Tensor:
        for layer in reversed(self.flows):
            z = layer(z, speaker)
        return z


class Latent(nn.Module):
    """Content, F0, voicing and noise (B, T, C) -> latent (B, T, C). Loudness is not used by default."""

    def __init__(self, config: SovitsConfig) -> None:
        super().__init__()
        self.noise_scale = config.noise_scale
        self.emb_g = nn.Embedding(config.n_speakers, config.gin_channels)
        self.pre = nn.Conv1d(config.ssl_dim, config.hidden_channels, _PRE_KERNEL, padding=_PRE_KERNEL // 2)
        self.enc_p = TextEncoder(config)
        self.flow = Flow(config)
        self.emb_uv = nn.Embedding(2, config.hidden_channels)

    def forward(
        self, content: Tensor, content_index: Tensor, f0_hz: Tensor, voiced: Tensor, singer: Tensor, noise: Tensor
    ) -> Tensor:
        x = self.pre(stretched(content, content_index).transpose(1, 2)) + self.emb_uv(voiced).transpose(1, 2)
        mean, log_spread = self.enc_p(x, f0_hz)
        z = mean + noise.transpose(1, 2) * log_spread.exp() * self.noise_scale
        return self.flow(z, self.emb_g(singer)[..., None]).transpose(1, 2)


class Decoder(nn.Module):
    """NSF-HiFi-GAN from the latent (B, T, C), conditioned on the speaker's embedding (B, G)."""

    def __init__(self, config: HifiGanConfig, gin_channels: int) -> None:
        super().__init__()
        self.generator = NsfHifiGan(config)
        self.cond = nn.Conv1d(gin_channels, config.upsample_initial_channel, 1)

    def forward(self, latent: Tensor, source: Tensor, singer: Tensor) -> Tensor:
        x = self.generator.conv_pre(latent.transpose(1, 2)) + self.cond(singer[..., None])
        return self.generator.from_hidden(x, source)
