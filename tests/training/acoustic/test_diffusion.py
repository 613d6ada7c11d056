"""The mathematics of teacher and student against closed forms."""

import pytest
import torch

from comosvc.training.acoustic.diffusion import (
    SigmaConfig,
    consistency_sample,
    edm_scalings,
    euler_sample,
    karras_sigmas,
    renoise,
    sampling_sigmas,
    teacher_sample,
    training_sigmas,
)
from comosvc.training.loop.batches import Draws

CONFIG = SigmaConfig()


def ideal_denoiser(x, sigma):
    """E[y | x] for y ~ N(0, sigma_data^2)."""
    return x * CONFIG.sigma_data**2 / (sigma.view(-1, 1, 1) ** 2 + CONFIG.sigma_data**2)


def ode_end(noise):
    """The end of the same data's ODE: x(0) = x(sigma) sigma_data / sqrt(sigma^2 + sigma_data^2)."""
    return CONFIG.sigma_max * noise * CONFIG.sigma_data / (CONFIG.sigma_max**2 + CONFIG.sigma_data**2) ** 0.5


def test_published_constants_at_sigma_max():
    c_skip, c_out, c_in, c_noise = edm_scalings(torch.tensor([80.0], dtype=torch.float64), CONFIG)
    assert c_skip.item() == pytest.approx(3.9063e-5, rel=1e-4)
    assert c_out.item() == pytest.approx(0.4999777, rel=1e-6)
    assert 80 * c_in.item() == pytest.approx(0.9999805, rel=1e-6)
    assert c_noise.item() == pytest.approx(1.0955067, rel=1e-6)


def test_boundary_condition():
    c_skip, c_out, _, _ = edm_scalings(torch.tensor([CONFIG.sigma_min]), CONFIG)
    assert c_skip.item() == 1.0
    assert c_out.item() == 0.0


def test_ladder_has_both_ends_and_the_published_values():
    ladder = karras_sigmas(25, CONFIG)
    assert ladder[0].item() == pytest.approx(80.0)
    assert ladder[-1].item() == pytest.approx(0.002, rel=1e-4)
    published = [63.4828, 49.9793, 39.0167, 30.1833, 23.1226]
    torch.testing.assert_close(ladder[1:6], torch.tensor(published), rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("n_steps", "published"),
    [(1, [80]), (2, [80, 2.5152]), (4, [80, 17.528, 2.5152, 0.1698])],
)
def test_sampling_sigmas(n_steps, published):
    torch.testing.assert_close(sampling_sigmas(n_steps, CONFIG), torch.tensor(published).float(), rtol=1e-3, atol=0)


def test_euler_error_halves_when_the_steps_double():
    noise = torch.randn(1, 40, 8, generator=torch.Generator().manual_seed(0)).double()
    errors = [(teacher_sample(ideal_denoiser, noise, n, CONFIG) - ode_end(noise)).norm().item() for n in (64, 128, 256)]
    assert errors[0] / errors[1] == pytest.approx(2.0, abs=0.2)
    assert errors[1] / errors[2] == pytest.approx(2.0, abs=0.1)


def test_euler_sample_ends_at_its_last_sigma():
    noise = torch.ones(1, 1, 1).double()
    end = euler_sample(ideal_denoiser, noise, karras_sigmas(4000, CONFIG)).item()
    scale = ((0.002**2 + 0.25) / (80**2 + 0.25)) ** 0.5
    assert end == pytest.approx(80 * scale, rel=5e-3)


def test_renoise_reaches_sigma_from_sigma_min():
    x = torch.zeros(1, 200, 80)
    z = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    assert renoise(x, torch.tensor(2.5), z, CONFIG).std().item() == pytest.approx(2.5, rel=0.02)


def test_consistency_sampler_of_an_exact_consistency_function():
    """f(x, sigma) that jumps to the ODE's end gives data of the right spread, whatever the number of steps."""

    def f(x, sigma):
        return x * CONFIG.sigma_data / (sigma.view(-1, 1, 1) ** 2 + CONFIG.sigma_data**2).sqrt()

    generator = torch.Generator().manual_seed(2)
    for n_steps in (1, 2, 4):
        noises = [torch.randn(1, 400, 80, generator=generator) for _ in range(n_steps)]
        assert consistency_sample(f, noises, CONFIG).std().item() == pytest.approx(CONFIG.sigma_data, rel=0.02)


def test_mixed_sigmas_visit_the_top_of_the_ladder():
    draws = Draws(3, 0, range(20_000))
    ladder = karras_sigmas(25, CONFIG)
    published = training_sigmas(draws, CONFIG)
    mixed = training_sigmas(draws, CONFIG, ladder)
    assert (published > 10).float().mean() < 0.004
    assert (mixed > 10).float().mean() > 0.15
    assert published.log().mean().item() == pytest.approx(CONFIG.P_mean, abs=0.05)
