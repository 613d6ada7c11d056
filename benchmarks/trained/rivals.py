"""Rival acoustic models at demo size: the shapes of so-vits-svc (VITS) and diff-svc (noise prediction)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...runtime.audio.spec import AudioSpec
from ...training.acoustic.dataset import batch_condition
from ...training.acoustic.model import AcousticModel, HarmonicFeatures, ResidualLayer
from ...training.loop.batches import Batch, Draws
from ...training.loop.loop import LoopConfig, Objective
from ..baselines.sampler import linear_betas


@dataclass(frozen=True, kw_only=True)
class FlowConfig:
    """Sizes: 1.7 M parameters serve conversion, as many as our denoiser has; another 0.6 M are the posterior."""

    loop: LoopConfig
    crop_frames: int
    channels: int = 96
    latent: int = 96
    prior_layers: int = 5
    posterior_layers: int = 6
    couplings: int = 4
    coupling_layers: int = 2
    decoder_layers: int = 5
    dilation_cycle: tuple[int, ...] = (1, 2, 4)
    mel_weight: float = 45.0
    """c_mel of VITS and of so-vits-svc, on the L1 in nepers; the KL has weight 1."""
    noise_scale: float = 0.4
    """Of the prior's standard deviation in conversion: the default of so-vits-svc's command."""


class WaveNet(nn.Module):
    """Gated convolutions under a condition: x (B, T, in), condition (B, T or 1, channels) or None -> (B, T, out)."""

    def __init__(self, n_in: int, n_out: int, layers: int, config: FlowConfig, *, conditioned: bool = True) -> None:
        super().__init__()
        C, cycle = config.channels, config.dilation_cycle
        self.input = nn.Linear(n_in, C)
        self.layers = nn.ModuleList(
            ResidualLayer(C, cycle[i % len(cycle)], cycle[i % len(cycle)]) for i in range(layers)
        )
        self.condition = nn.Linear(C, layers * 2 * C) if conditioned else None
        self.output = nn.Linear(C, n_out)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        n = len(self.layers)
        h = self.input(x).transpose(1, 2)
        nothing = h.new_zeros(())
        conditions = (
            [nothing] * n
            if self.condition is None or condition is None
            else self.condition(condition).transpose(1, 2).chunk(n, dim=1)
        )
        total = nothing
        for layer, of_layer in zip(self.layers, conditions, strict=True):
            h, skip = layer(h, nothing, of_layer)
            total = total + skip
        return self.output((total / math.sqrt(n)).transpose(1, 2)).float()


class Coupling(nn.Module):
    """Shifts one half of z (B, T, D) by a function of the other half and the singer: invertible, of volume 1 (VITS'
    mean-only coupling). Initially the identity.
    """

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.n_kept = config.latent // 2
        self.shift = WaveNet(self.n_kept, self.n_kept, config.coupling_layers, config)
        nn.init.zeros_(self.shift.output.weight)
        nn.init.zeros_(self.shift.output.bias)

    def forward(self, z: Tensor, singer: Tensor, sign: float = 1.0) -> Tensor:
        """`sign` -1: the inverse."""
        kept, moved = z.split(self.n_kept, dim=-1)
        return torch.cat((kept, moved + sign * self.shift(kept, singer)), dim=-1)


class FlowAtDemoSize(nn.Module):
    """z (B, T, D) to the prior's space and back, under singer (B, 1, C); channels are reversed between couplings."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.couplings = nn.ModuleList(Coupling(config) for _ in range(config.couplings))

    def forward(self, z: Tensor, singer: Tensor) -> Tensor:
        for coupling in self.couplings:
            z = coupling(z, singer).flip(-1)
        return z

    def inverse(self, z_p: Tensor, singer: Tensor) -> Tensor:
        for coupling in reversed(self.couplings):
            z_p = coupling(z_p.flip(-1), singer, -1.0)
        return z_p


class FlowModel(nn.Module):
    """Content, F0, loudness and singer to a mel. A batch holds content (B, T, C), f0_hz (B, T), loudness (B, T), singer
    (B,), all at the mel's frames, and in training mel (B, T, M).
    """

    mel_mean: Tensor
    mel_scale: Tensor

    def __init__(self, config: FlowConfig, spec: AudioSpec, n_content: int, n_singers: int) -> None:
        super().__init__()
        self.config, self.spec = config, spec
        C, D, M = config.channels, config.latent, spec.n_mels
        self.harmonics = HarmonicFeatures(spec)
        self.content_embed = nn.Conv1d(n_content, C, 5, padding=2)
        self.pitch_embed = nn.Linear(M + 2, C)
        self.loudness_embed = nn.Linear(1, C)
        self.singer_embed = nn.Embedding(n_singers, C)
        self.decoder_pitch_embed = nn.Linear(M + 2, C)
        self.prior = WaveNet(C, 2 * D, config.prior_layers, config, conditioned=False)
        self.posterior = WaveNet(M, 2 * D, config.posterior_layers, config)
        self.flow = FlowAtDemoSize(config)
        self.decoder = WaveNet(D, M, config.decoder_layers, config)
        self.register_buffer("mel_mean", torch.zeros(M))
        self.register_buffer("mel_scale", torch.ones(()))

    def singer(self, batch: Batch) -> Tensor:
        """(B, 1, C)."""
        return self.singer_embed(batch["singer"])[:, None]

    def prior_of(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation, (B, T, D) each, independent of the singer."""
        content = self.content_embed(batch["content"].transpose(1, 2)).transpose(1, 2)
        loudness = torch.log10(batch["loudness"].clamp(min=1e-5)) + 2.0
        x = content + self.pitch_embed(self._pitch(batch)) + self.loudness_embed(loudness[..., None])
        mean, log_std = self.prior(x).chunk(2, dim=-1)
        return mean, log_std

    def posterior_of(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation of z given the mel, (B, T, D) each."""
        x = (batch["mel"] - self.mel_mean) / self.mel_scale
        mean, log_std = self.posterior(x, self.singer(batch)).chunk(2, dim=-1)
        return mean, log_std

    def decode(self, z: Tensor, batch: Batch) -> Tensor:
        """z (B, T, D) to the mel (B, T, M)."""
        condition = self.singer(batch) + self.decoder_pitch_embed(self._pitch(batch))
        return self.decoder(z, condition) * self.mel_scale + self.mel_mean

    def convert(self, batch: Batch, noise: Tensor) -> Tensor:
        """The mel (B, T, M) by the batch's singer, from noise (B, T, D)."""
        mean, log_std = self.prior_of(batch)
        z_p = mean + self.config.noise_scale * log_std.exp() * noise
        return self.decode(self.flow.inverse(z_p, self.singer(batch)), batch)

    def _pitch(self, batch: Batch) -> Tensor:
        f0_hz = batch["f0_hz"]
        return torch.cat((self.harmonics(f0_hz), torch.log1p(f0_hz / 700.0)[..., None]), dim=-1)


def kl_divergence(z_p: Tensor, log_std_q: Tensor, mean_p: Tensor, log_std_p: Tensor) -> Tensor:
    """KL of the posterior from the prior behind the flow, one sample z_p of each; summed over channels, mean over
    frames. VITS eq. 4, with the posterior's entropy in closed form as in its code.
    """
    kl = log_std_p - log_std_q - 0.5 + 0.5 * (z_p - mean_p) ** 2 * torch.exp(-2.0 * log_std_p)
    return kl.sum(dim=-1).mean()


class FlowObjective(Objective[FlowModel]):
    """c_mel |mel - decoded| + KL. VITS eq. 8 without durations and without the adversary."""

    def __init__(self, model: FlowModel, config: FlowConfig) -> None:
        super().__init__()
        self.model, self.config = model, config

    def draw(self, batch: Batch, draws: Draws) -> Batch:
        """Adds noise (B, T, D)."""
        return {**batch, "noise": draws.normal(batch["mel"].shape[1], self.config.latent)}

    def forward(self, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        model = self.model
        mean_p, log_std_p = model.prior_of(batch)
        mean_q, log_std_q = model.posterior_of(batch)
        z = mean_q + log_std_q.exp() * batch["noise"]
        kl = kl_divergence(model.flow(z, model.singer(batch)), log_std_q, mean_p, log_std_p)
        distance = (model.decode(z, batch) - batch["mel"]).abs().mean() * math.log(model.spec.mel_log_base)
        return self.config.mel_weight * distance + kl, {"mel_l1": distance.detach(), "kl": kl.detach()}


@dataclass(frozen=True, kw_only=True)
class NoisePredictionConfig:
    """diff-svc's `config.yaml`: `timesteps`, `schedule_type: linear`, `max_beta`; the loss is its `l2`."""

    loop: LoopConfig
    crop_frames: int
    n_steps: int = 1000
    beta_min: float = 1e-4
    beta_max: float = 0.02

    @property
    def betas(self) -> NDArray[np.float64]:
        """beta_t for t = 0 .. n_steps - 1. DDPM section 4."""
        return linear_betas(self.n_steps, self.beta_min, self.beta_max)


class NoisePredictionObjective(Objective[AcousticModel]):
    """E |epsilon - epsilon(x_t, t)|^2, t uniform. DDPM eq. 14."""

    def __init__(self, model: AcousticModel, config: NoisePredictionConfig) -> None:
        super().__init__()
        self.model, self.n_steps = model, config.n_steps
        self.levels = torch.from_numpy(np.cumprod(1.0 - config.betas)).float()  # alpha-bar_t, DDPM eq. 4

    def draw(self, batch: Batch, draws: Draws) -> Batch:
        """Adds t (B,) and noise (B, T, M)."""
        return {**batch, "t": draws.integers(self.n_steps), "noise": draws.normal(*batch["mel"].shape[1:])}

    def forward(self, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        model, t, noise = self.model, batch["t"], batch["noise"]
        level = self.levels.to(t.device)[t].view(-1, 1, 1)
        x_t = level.sqrt() * model.normalise(batch["mel"]) + (1.0 - level).sqrt() * noise
        embedded = model.embed(batch_condition(model, batch))
        loss = ((model.denoiser(x_t, t.float(), embedded).float() - noise) ** 2).mean()
        return loss, {}
