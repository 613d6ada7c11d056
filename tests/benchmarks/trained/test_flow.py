from dataclasses import replace

import pytest
import torch
from torch.distributions import Normal
from torch.distributions import kl_divergence as exact_kl
from toy_voice import toy_batch

from comosvc.benchmarks.trained.rivals import FlowAtDemoSize, FlowConfig, FlowModel, FlowObjective, kl_divergence
from comosvc.runtime.audio.spec import COMOSVC_24K
from comosvc.training.acoustic.model import AcousticModel
from comosvc.training.config import load_config
from comosvc.training.loop.batches import Draws
from comosvc.training.loop.loop import LoopConfig
from comosvc.training.recipe import Recipe

LOOP = LoopConfig(steps=1, batch_size=8, learning_rate=1e-3, final_learning_rate=1e-4)
TINY = FlowConfig(
    loop=LOOP, crop_frames=24, channels=16, latent=4, prior_layers=2, posterior_layers=2, couplings=3, decoder_layers=2
)


@pytest.fixture
def flow():
    """A flow that does something: an untrained one is the identity."""
    torch.manual_seed(0)
    flow = FlowAtDemoSize(TINY)
    for parameter in flow.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return flow.double()


def test_the_inverse_of_the_flow_is_exact(flow):
    z, singer = torch.randn(2, 7, 4).double(), torch.randn(2, 1, 16).double()
    there = flow(z, singer)
    assert (there - z).abs().mean() > 0.1
    # The network inside answers in float32, as it does under autocast: both ways the same number.
    torch.testing.assert_close(flow.inverse(there, singer), z, rtol=0, atol=1e-6)


def test_the_flow_keeps_volume(flow):
    singer = torch.randn(1, 1, 16).double()
    jacobian = torch.autograd.functional.jacobian(
        lambda z: flow(z.view(1, 3, 4), singer).flatten(), torch.randn(12).double()
    )
    _, log_volume = torch.linalg.slogdet(jacobian)
    assert log_volume.item() == pytest.approx(0.0, abs=1e-5)
    assert (jacobian - torch.eye(12)).abs().max() > 0.1


def test_another_singer_is_another_flow(flow):
    z = torch.randn(1, 7, 4).double()
    one, other = torch.randn(2, 1, 1, 16).double()
    assert (flow(z, one) - flow(z, other)).abs().mean() > 0.01


def test_the_divergence_is_that_of_two_gaussians():
    generator = torch.Generator().manual_seed(0)
    mean_q, log_std_q, mean_p, log_std_p = 0.5 * torch.randn(4, 1, 1, 3, generator=generator)
    z = mean_q + log_std_q.exp() * torch.randn(1, 100_000, 3, generator=generator)
    exact = exact_kl(Normal(mean_q, log_std_q.exp()), Normal(mean_p, log_std_p.exp())).sum()
    assert kl_divergence(z, log_std_q, mean_p, log_std_p).item() == pytest.approx(exact.item(), rel=0.02)


def model():
    torch.manual_seed(0)
    return FlowModel(TINY, COMOSVC_24K, 4, 2)


def test_the_prior_knows_nothing_of_the_singer_and_the_rest_does():
    net = model().eval()
    batch = toy_batch(Draws(0, 0, range(2)))
    other = {**batch, "singer": 1 - batch["singer"]}
    assert torch.equal(net.prior_of(batch)[0], net.prior_of(other)[0])
    z = torch.randn(2, 24, 4)
    assert not torch.allclose(net.decode(z, batch), net.decode(z, other))
    assert not torch.allclose(net.posterior_of(batch)[0], net.posterior_of(other)[0])


def test_conversion_does_not_hear_the_mel_and_heeds_its_noise():
    net, noise = model().eval(), torch.randn(2, 24, 4)
    batch = toy_batch(Draws(0, 0, range(2)))
    mel = net.convert({**batch, "mel": torch.full_like(batch["mel"], torch.nan)}, noise)
    assert torch.isfinite(mel).all()
    assert not torch.allclose(mel, net.convert(batch, 2.0 * noise))
    net.config = replace(TINY, noise_scale=0.0)
    assert torch.equal(net.convert(batch, noise), net.convert(batch, 2.0 * noise))


def test_the_loss_falls_on_a_toy_voice():
    objective = FlowObjective(model(), TINY)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-3)
    figures = []
    for step in range(80):
        draws = Draws(0, step, range(8))
        loss, _ = objective(objective.draw(toy_batch(draws), draws))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        figures.append(loss.item())
    assert sum(figures[-10:]) < 0.5 * sum(figures[:10])


def test_at_demo_size_as_many_parameters_serve_conversion_as_in_our_model():
    recipe = load_config(Recipe, "demo")
    net = FlowModel(FlowConfig(loop=LOOP, crop_frames=128), recipe.audio, 33, 64)
    ours = AcousticModel(recipe.acoustic, recipe.audio, 33, 64)

    def size(module):
        return sum(p.numel() for p in module.parameters())

    assert size(net) - size(net.posterior) == pytest.approx(size(ours), rel=0.05)
