"""A model in the shape of diff-svc: our denoiser trained to predict noise, sampled with PNDM or ancestrally.

The network and its conditions are `AcousticModel`, `denoiser(x_t, t, condition)` being the predicted noise, so that
only the diffusion differs from our teacher: the gated input skip, which diff-svc lacks, is lent to it too.
Ho et al. 2020 (DDPM), Liu et al. 2022 (PNDM); settings of prophesier/diff-svc.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ...training.acoustic import AcousticModel
from ...training.acoustic_data import batch_condition
from ...training.draws import Batch, Draws
from ...training.loop import LoopConfig, Objective

Predict = Callable[[Tensor, int], Tensor]
"""epsilon(x_t (B, T, M), t) -> (B, T, M)."""

_ADAMS_BASHFORTH = (
    (1.0,),
    (3.0 / 2.0, -1.0 / 2.0),
    (23.0 / 12.0, -16.0 / 12.0, 5.0 / 12.0),
    (55.0 / 24.0, -59.0 / 24.0, 37.0 / 24.0, -9.0 / 24.0),
)
"""Weights of the predictions so far, the newest first. PNDM eq. 12 and its start."""


@dataclass(frozen=True, kw_only=True)
class NoisePredictionConfig:
    """diff-svc's `config.yaml`: `timesteps`, `schedule_type: linear`, `max_beta`; the loss is its `l2`."""

    loop: LoopConfig
    crop_frames: int
    n_steps: int = 1000
    beta_min: float = 1e-4
    beta_max: float = 0.02


def linear_betas(config: NoisePredictionConfig) -> Tensor:
    """beta_t for t = 0 .. n_steps - 1, float64. DDPM section 4."""
    return torch.linspace(config.beta_min, config.beta_max, config.n_steps, dtype=torch.float64)


def signal_levels(betas: Tensor) -> Tensor:
    """alpha-bar_t, the share of the data's variance that is left at t. DDPM eq. 4."""
    return torch.cumprod(1.0 - betas, dim=0)


def diffuse(x_0: Tensor, noise: Tensor, level: Tensor) -> Tensor:
    """x_t = sqrt(alpha-bar_t) x_0 + sqrt(1 - alpha-bar_t) epsilon. DDPM eq. 4; `level` broadcasts."""
    return level.sqrt() * x_0 + (1.0 - level).sqrt() * noise


class NoisePredictionObjective(Objective[AcousticModel]):
    """E |epsilon - epsilon(x_t, t)|^2, t uniform. DDPM eq. 14."""

    def __init__(self, model: AcousticModel, config: NoisePredictionConfig) -> None:
        super().__init__()
        self.model, self.n_steps = model, config.n_steps
        self.levels = signal_levels(linear_betas(config)).float()

    def draw(self, batch: Batch, draws: Draws) -> Batch:
        """Adds t (B,) and noise (B, T, M)."""
        return {**batch, "t": draws.integers(self.n_steps), "noise": draws.normal(*batch["mel"].shape[1:])}

    def forward(self, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        model, t, noise = self.model, batch["t"], batch["noise"]
        x_t = diffuse(model.normalise(batch["mel"]), noise, self.levels.to(t.device)[t].view(-1, 1, 1))
        embedded = model.embed(batch_condition(model, batch))
        loss = ((model.denoiser(x_t, t.float(), embedded).float() - noise) ** 2).mean()
        return loss, {}


def predict_with(model: AcousticModel, embedded: Tensor) -> Predict:
    """epsilon(x, t) under a fixed condition, as the samplers take it."""
    return lambda x, t: model.denoiser(x, torch.full((len(x),), float(t)), embedded)


def transfer(x: Tensor, noise: Tensor, level: Tensor, next_level: Tensor) -> Tensor:
    """x_t to the next level along a given noise. PNDM eq. 11, in the form of DDIM's eq. 12 without its noise."""
    x_0 = (x - (1.0 - level).sqrt() * noise) / level.sqrt()
    return diffuse(x_0, noise, next_level)


def pndm_sample(predict: Predict, noise: Tensor, betas: Tensor, interval: int) -> Tensor:
    """From `noise` (B, T, M) in strides of `interval` steps: n_steps / interval evaluations and one more.

    As in diff-svc the first stride is an improved Euler step instead of PNDM's Runge-Kutta steps, and the last one goes
    from t = 0 to t = 0, so that its evaluation changes nothing.
    """
    levels = signal_levels(betas).float()
    history: deque[Tensor] = deque(maxlen=len(_ADAMS_BASHFORTH))
    x = noise
    for t in reversed(range(0, len(betas), interval)):
        until = max(t - interval, 0)
        history.appendleft(predict(x, t))
        if len(history) == 1:
            ahead = predict(transfer(x, history[0], levels[t], levels[until]), until)
            mean = (history[0] + ahead) / 2.0
        else:
            weights = _ADAMS_BASHFORTH[len(history) - 1]
            mean = torch.stack([w * e for w, e in zip(weights, history, strict=True)]).sum(dim=0)
        x = transfer(x, mean, levels[t], levels[until])
    return x


def ancestral_sample(predict: Predict, draw: Callable[[int], Tensor], betas: Tensor) -> Tensor:
    """All n_steps evaluations; `draw(k)` is the k-th noise (B, T, M). DDPM algorithm 2.

    The data is in -1 .. 1, and each estimate of it is clamped to that, as diff-svc does.
    """
    levels, n = signal_levels(betas).float(), len(betas)
    x = draw(0)
    for t in reversed(range(n)):
        beta, level = betas[t].float(), levels[t]
        before = levels[t - 1] if t else torch.ones(())
        x_0 = ((x - (1.0 - level).sqrt() * predict(x, t)) / level.sqrt()).clamp(-1.0, 1.0)
        # The posterior of x_{t-1}: DDPM eq. 6 and 7.
        x = (before.sqrt() * beta * x_0 + (1.0 - beta).sqrt() * (1.0 - before) * x) / (1.0 - level)
        if t:
            x = x + (beta * (1.0 - before) / (1.0 - level)).sqrt() * draw(n - t)
    return x
