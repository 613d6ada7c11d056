"""so-vits-svc 4.1's synthesizer, of which inference uses the prior, the flow backwards and the decoder."""

import torch
from torch import Tensor, nn

from ...training.hifigan import HifiGanConfig, NsfHifiGan
from .parts import stretched
from .sovits_encoder import ChannelNorm, FeedForward, SovitsConfig, TextEncoder

_KERNEL, _FLOW_DEPTH, _POSTERIOR_DEPTH, _PRE_KERNEL = 5, 4, 16, 5


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
    """Backwards: takes from one half of the channels a mean that the other half tells. (B, C, T) -> (B, C, T)."""

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
    """NSF-HiFi-GAN from the latent (B, T, C), told the speaker by its embedding (B, G)."""

    def __init__(self, config: HifiGanConfig, gin_channels: int) -> None:
        super().__init__()
        self.generator = NsfHifiGan(config)
        self.cond = nn.Conv1d(gin_channels, config.upsample_initial_channel, 1)

    def forward(self, latent: Tensor, source: Tensor, singer: Tensor) -> Tensor:
        x = self.generator.conv_pre(latent.transpose(1, 2)) + self.cond(singer[..., None])
        return self.generator.from_hidden(x, source)


def training_only(config: SovitsConfig, n_bins: int) -> nn.Module:
    """What the synthesizer has beside `Latent` and `Decoder`: the posterior's encoder, which hears the spectrum
    (`n_bins` of it), and an F0 predictor meant for speech. For its names and shapes only: there is no forward.
    """
    hidden, gin, layers = config.hidden_channels, config.gin_channels, range(config.n_layers)

    def attention() -> nn.Module:
        return nn.ModuleDict({f"conv_{which}": nn.Conv1d(hidden, hidden, 1) for which in "qkvo"})

    posterior = {
        "pre": nn.Conv1d(n_bins, hidden, 1),
        "enc": WN(hidden, _POSTERIOR_DEPTH, gin),
        "proj": nn.Conv1d(hidden, 2 * config.inter_channels, 1),
    }
    decoder = {
        "self_attn_layers": nn.ModuleList(attention() for _ in layers),
        "norm_layers_0": nn.ModuleList(ChannelNorm(hidden) for _ in layers),
        "ffn_layers": nn.ModuleList(FeedForward(hidden, config.filter_channels, config.kernel_size) for _ in layers),
        "norm_layers_1": nn.ModuleList(ChannelNorm(hidden) for _ in layers),
    }
    f0_decoder = {
        "prenet": nn.Conv1d(hidden, hidden, 3),
        "decoder": nn.ModuleDict(decoder),
        "proj": nn.Conv1d(hidden, 1, 1),
        "f0_prenet": nn.Conv1d(1, hidden, 3),
        "cond": nn.Conv1d(gin, hidden, 1),
    }
    return nn.ModuleDict({"enc_q": nn.ModuleDict(posterior), "f0_decoder": nn.ModuleDict(f0_decoder)})
