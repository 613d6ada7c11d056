"""The mathematics of the teacher (Karras et al. 2022, EDM) and of the student (Song et al. 2023, consistency models).

Symbols are the papers'. Differences are the CoMoSVC authors': c_skip and c_out are shifted by sigma_min for the
teacher as well as for the student, so that both satisfy the boundary condition f(x, sigma_min) = x.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..loop.batches import Draws

Denoise = Callable[[Tensor, Tensor], Tensor]
"""D(x (B, T, M), sigma (B,)) -> (B, T, M)."""


@dataclass(frozen=True, kw_only=True)
class SigmaConfig:
    """Noise levels, in units of the normalised mel."""

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    sigma_data: float = 0.5
    rho: float = 7.0
    P_mean: float = -1.2
    P_std: float = 1.2


def edm_scalings(sigma: Tensor, config: SigmaConfig) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """c_skip, c_out, c_in, c_noise. EDM table 1 with sigma - sigma_min (consistency models, appendix C)."""
    shifted, data = sigma - config.sigma_min, config.sigma_data
    c_skip = data**2 / (shifted**2 + data**2)
    c_out = data * shifted / (sigma**2 + data**2).sqrt()
    c_in = 1.0 / (sigma**2 + data**2).sqrt()
    c_noise = sigma.log() / 4.0
    return c_skip, c_out, c_in, c_noise


def karras_sigmas(n: int, config: SigmaConfig) -> Tensor:
    """n noise levels from sigma_max down to sigma_min, both included. EDM eq. 5."""
    ramp = torch.linspace(0.0, 1.0, n, dtype=torch.float64)
    high, low = config.sigma_max ** (1 / config.rho), config.sigma_min ** (1 / config.rho)
    return ((high + ramp * (low - high)) ** config.rho).float()


def off_by_one_sigmas(n: int, config: SigmaConfig) -> Tensor:
    """The authors' teacher ladder as shipped: n levels that stop one short of sigma_min, as if n + 1 were to come.

    Their step count is raised between the numerator and the denominator of the ramp, so sigma_min is never visited and
    the last step goes to 0 from above it.
    """
    return karras_sigmas(n + 1, config)[:-1]


def loss_weight(sigma: Tensor, config: SigmaConfig) -> Tensor:
    """lambda(sigma) = 1 / c_out^2 of plain EDM. EDM table 1."""
    return (sigma**2 + config.sigma_data**2) / (sigma * config.sigma_data) ** 2


def training_sigmas(draws: Draws, config: SigmaConfig, ladder: Tensor | None = None) -> Tensor:
    """Noise levels to train at, (B,): ln sigma ~ N(P_mean, P_std^2); with a `ladder`, every second sample's is drawn
    from it instead.

    The published distribution puts 0.2 % of its draws above sigma 10. A million iterations forgive that; a short
    training does not, and the student starts at sigma_max.
    """
    sigma = (config.P_mean + config.P_std * draws.normal()).exp()
    if ladder is not None:
        sigma = torch.where(torch.tensor(draws.numbers) % 2 == 0, ladder[draws.integers(len(ladder))], sigma)
    return sigma.clamp(config.sigma_min * 1.01, config.sigma_max)


def euler_step(x: Tensor, sigma: Tensor, next_sigma: Tensor, denoised: Tensor) -> Tensor:
    """One Euler step of the probability-flow ODE, dx/dsigma = (x - D) / sigma. EDM algorithm 1."""
    ratio = (next_sigma / sigma).view(-1, 1, 1)
    return ratio * x + (1.0 - ratio) * denoised


def euler_sample(denoise: Denoise, noise: Tensor, sigmas: Tensor) -> Tensor:
    """Follow the ODE through `sigmas` (descending) from sigmas[0] * noise; ends at the last sigma."""
    x = sigmas[0] * noise
    for sigma, next_sigma in itertools.pairwise(sigmas):
        batch_sigma = sigma.to(x.device).expand(len(x))
        x = euler_step(x, batch_sigma, next_sigma.to(x.device).expand(len(x)), denoise(x, batch_sigma))
    return x


TEACHER_LADDERS: dict[str, Callable[[int, SigmaConfig], Tensor]] = {
    "karras": karras_sigmas,
    "off-by-one": off_by_one_sigmas,
}
"""Noise levels of the teacher's sampler by name: EDM's, which is ours, and the authors' as shipped."""


def teacher_sigmas(n_steps: int, config: SigmaConfig, ladder: str = "karras") -> Tensor:
    """The n_steps levels that the teacher's sampler evaluates at, then 0. `ladder`: see `TEACHER_LADDERS`."""
    return torch.cat((TEACHER_LADDERS[ladder](n_steps, config), torch.zeros(1)))


def teacher_sample(
    denoise: Denoise, noise: Tensor, n_steps: int, config: SigmaConfig, ladder: str = "karras"
) -> Tensor:
    """Euler over n_steps evaluations, ending at sigma 0. `ladder`: see `TEACHER_LADDERS`."""
    return euler_sample(denoise, noise, teacher_sigmas(n_steps, config, ladder))


def renoise(x: Tensor, sigma: Tensor, noise: Tensor, config: SigmaConfig) -> Tensor:
    """x + sqrt(sigma^2 - sigma_min^2) z. Consistency models, algorithm 1."""
    return x + (sigma**2 - config.sigma_min**2).sqrt() * noise


def sampling_sigmas(n_steps: int, config: SigmaConfig) -> Tensor:
    """The noise levels at which an n-step consistency sampler evaluates: the first n of an (n + 1)-point ladder."""
    return karras_sigmas(n_steps + 1, config)[:-1]


def consistency_sample(denoise: Denoise, noises: Sequence[Tensor], config: SigmaConfig) -> Tensor:
    """One evaluation for each noise (B, T, M): denoise from sigma_max, then re-noise lower and denoise again."""
    sigmas = sampling_sigmas(len(noises), config)
    x = denoise(config.sigma_max * noises[0], sigmas[0].expand(len(noises[0])))
    for sigma, noise in zip(sigmas[1:], noises[1:], strict=True):
        x = denoise(renoise(x, sigma, noise, config), sigma.expand(len(x)))
    return x
