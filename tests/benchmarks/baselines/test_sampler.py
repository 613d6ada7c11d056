"""Samplers against what they must give for data whose ideal denoiser is known: x0 ~ N(0, std^2) for every value."""

import numpy as np
import pytest
import torch
from torch import nn

from comosvc.benchmarks.baselines.sampler import (
    SamplerStep,
    ddpm,
    dpm_solver_pp,
    edm_euler,
    linear_betas,
    pndm,
    sampler_graph,
)
from comosvc.benchmarks.baselines.sampler import sample as run_sampler
from comosvc.training.acoustic.diffusion import SigmaConfig, edm_scalings, teacher_sample

BETAS = linear_betas()
ALPHAS_BAR = torch.tensor(np.cumprod(1.0 - BETAS), dtype=torch.float32)


class IdealNoise(nn.Module):
    """E[noise | x, time] of N(0, std^2). Times between two steps are interpolated, as DPM-Solver asks for them."""

    def __init__(self, std):
        super().__init__()
        self.std = std

    def forward(self, x, time, condition):
        low = time.floor().long().clamp(0, len(ALPHAS_BAR) - 1)
        high = (low + 1).clamp(max=len(ALPHAS_BAR) - 1)
        log_bar = torch.lerp(ALPHAS_BAR[low].log(), ALPHAS_BAR[high].log(), time - low)
        bar = log_bar.exp().view(-1, 1, 1)
        return (1.0 - bar).sqrt() * x / (bar * self.std**2 + 1.0 - bar)


class Recorder(nn.Module):
    """Predicts nothing; remembers when it was asked."""

    def __init__(self):
        super().__init__()
        self.times = []

    def forward(self, x, time, condition):
        self.times.append(time[0].item())
        return torch.zeros_like(x)


def sample(sampler, network, x, draws=None):
    """`draws` makes the noises after the initial x."""
    condition = torch.zeros(len(x), x.shape[1], 1)
    return run_sampler(sampler, network, condition, lambda number: draws(x.shape) if number else x)


def spread(bar, std):
    """Of x at noise level 1 - bar; the ODE keeps x in proportion to it."""
    return (bar * std**2 + 1.0 - bar).sqrt()


def relative_error(sampler, std, begin):
    """Of the end of the ODE from time `begin`."""
    found = sample(sampler, IdealNoise(std), torch.ones(1, 1, 1)).item()
    return abs(found / (spread(ALPHAS_BAR[0], std) / spread(ALPHAS_BAR[begin], std)).item() - 1.0)


@pytest.mark.parametrize(("betas", "evaluations"), [(BETAS, 100), (BETAS[:100], 10)])
def test_dpm_solver_is_exact_where_the_mel_is_known(betas, evaluations):
    """It solves the rest of the ODE, and only that, in closed form."""
    assert relative_error(dpm_solver_pp(betas, evaluations), 0.0, len(betas) - 1) < 1e-3  # of 1000 roundings


def test_dpm_solver_is_of_second_order():
    errors = [relative_error(dpm_solver_pp(BETAS, n), 0.5, 999) for n in (50, 100, 200)]
    assert 3.5 < errors[0] / errors[1] < 4.5
    assert 3.5 < errors[1] / errors[2] < 4.5


@pytest.mark.parametrize("speed_up", [10, 20])
def test_pndm_ends_where_the_ode_ends(speed_up):
    """A tenth of what DPM-Solver is off by."""
    assert relative_error(pndm(BETAS, speed_up), 0.5, 1000 - speed_up) < 1e-3


def test_ddpm_gives_the_data_its_spread():
    generator = torch.Generator().manual_seed(0)

    def draws(shape):
        return torch.randn(shape, generator=generator)

    found = sample(ddpm(BETAS), IdealNoise(0.2), draws((1, 200, 20)), draws)
    assert found.std().item() == pytest.approx(0.2, rel=0.05)
    assert found.mean().item() == pytest.approx(0.0, abs=0.02)


def test_ddpm_clips_and_ends_without_noise():
    sampler = ddpm(BETAS)
    x = torch.full((1, 2, 3), 50.0)
    found = SamplerStep(Recorder(), sampler)(x[:, None], x, torch.tensor(999), noise=x)
    torch.testing.assert_close(found[:, 0], torch.ones(1, 2, 3))


def test_the_teacher_is_trainings_own():
    config = SigmaConfig()
    network = _Affine()
    x = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))

    def denoise(x, sigma):
        c_skip, c_out, c_in, c_noise = (c.view(-1, 1, 1) for c in edm_scalings(sigma, config))
        return c_skip * x + c_out * network(c_in * x, c_noise.view(-1), None)

    wanted = teacher_sample(denoise, x, 12, config, "off-by-one")
    torch.testing.assert_close(sample(edm_euler(12, config), network, 80.0 * x), wanted, rtol=1e-4, atol=1e-5)


class _Affine(nn.Module):
    def forward(self, x, time, condition):
        return 0.3 * x + time.view(-1, 1, 1)


def test_networks_are_asked_at_the_originals_times():
    asked = {}
    for name, sampler in {"pndm": pndm(BETAS, 100), "dpm": dpm_solver_pp(BETAS, 10), "ddpm": ddpm(BETAS[:4])}.items():
        recorder = Recorder()
        sample(sampler, recorder, torch.zeros(1, 2, 3), torch.zeros)
        asked[name] = recorder.times
    assert asked["pndm"] == [900, 800, 800, 700, 600, 500, 400, 300, 200, 100, 0]
    assert asked["dpm"] == pytest.approx([999 - 99.9 * n for n in range(10)], abs=1e-3)
    assert asked["ddpm"] == [3, 2, 1, 0]


def test_only_a_sampler_that_draws_has_noise_for_an_input():
    names = [[tensor.name for tensor in sampler_graph(s).inputs] for s in (ddpm(BETAS), pndm(BETAS, 10))]
    assert names == [["state", "condition", "step_index", "noise"], ["state", "condition", "step_index"]]
