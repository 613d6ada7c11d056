import pytest
import torch
from toy_voice import toy_batch, toy_model

from comosvc.benchmarks.trained.rivals import (
    NoisePredictionConfig,
    NoisePredictionObjective,
    ancestral_sample,
    diffuse,
    linear_betas,
    pndm_sample,
    signal_levels,
    transfer,
)
from comosvc.training.loop.batches import Draws
from comosvc.training.loop.loop import LoopConfig

LOOP = LoopConfig(steps=1, batch_size=8, learning_rate=1e-3, final_learning_rate=1e-4)
CONFIG = NoisePredictionConfig(loop=LOOP, crop_frames=24)
BETAS = linear_betas(CONFIG)
LEVELS = signal_levels(BETAS).float()
DATA_STD = 0.3


def ideal(x, t):
    """E[epsilon | x_t] of data ~ N(0, DATA_STD^2)."""
    return (1 - LEVELS[t]).sqrt() * x / (LEVELS[t] * DATA_STD**2 + 1 - LEVELS[t])


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_schedule_begins_and_ends_as_published():
    assert len(BETAS) == 1000
    assert (BETAS[0].item(), BETAS[-1].item()) == pytest.approx((1e-4, 0.02))
    assert signal_levels(BETAS)[0].item() == pytest.approx(1 - 1e-4)
    assert signal_levels(BETAS)[-1].item() == pytest.approx(4.036e-5, rel=1e-3)  # the product, to four digits


def test_diffusing_keeps_the_variance_of_unit_data():
    x = diffuse(normal(1, 300, 80), normal(1, 300, 80, seed=1), LEVELS[400])
    assert x.std().item() == pytest.approx(1.0, abs=0.02)


def test_pndm_with_the_ideal_predictor_ends_at_the_data_s_spread():
    x = pndm_sample(ideal, normal(1, 300, 80), BETAS, 10)
    # The ODE scales x by the ratio of the marginal standard deviations between its two ends.
    spread = (LEVELS * DATA_STD**2 + 1 - LEVELS).sqrt()
    assert x.std().item() == pytest.approx((spread[0] / spread[990]).item(), rel=0.02)
    assert spread[0] == pytest.approx(DATA_STD, rel=0.01)


def test_ancestral_sampling_with_the_ideal_predictor_ends_at_the_data_s_spread():
    x = ancestral_sample(ideal, lambda k: normal(1, 60, 80, seed=k), BETAS)
    assert x.std().item() == pytest.approx(DATA_STD, rel=0.03)


def test_a_predictor_that_is_off_is_seen_in_the_spread():
    assert pndm_sample(lambda x, t: 0.9 * ideal(x, t), normal(1, 60, 80), BETAS, 10).std() > 1.2 * DATA_STD


@pytest.mark.parametrize(("interval", "evaluations"), [(10, 101), (50, 21), (1000, 2)])
def test_pndm_evaluates_once_a_stride_and_once_more(interval, evaluations):
    seen = []

    def predict(x, t):
        seen.append(t)
        return ideal(x, t)

    pndm_sample(predict, normal(1, 4, 8), BETAS, interval)
    assert len(seen) == evaluations
    assert seen[0] == 1000 - interval
    assert seen[-1] == 0


def test_ancestral_sampling_evaluates_at_every_step():
    seen = []
    ancestral_sample(lambda x, t: seen.append(t) or ideal(x, t), lambda k: normal(1, 4, 8, seed=k), BETAS)
    assert seen == list(range(999, -1, -1))


def test_the_transfer_is_that_of_the_pndm_paper():
    x, noise, a, b = normal(1, 5, 8), normal(1, 5, 8, seed=1), LEVELS[500], LEVELS[490]
    of_x = 1 / (a.sqrt() * (a.sqrt() + b.sqrt()))
    of_noise = 1 / (a.sqrt() * (((1 - b) * a).sqrt() + ((1 - a) * b).sqrt()))
    published = x + (b - a) * (of_x * x - of_noise * noise)  # Liu et al. 2022, eq. 11
    torch.testing.assert_close(transfer(x, noise, a, b), published, rtol=1e-4, atol=1e-4)  # float32, levels near 0.08


def test_the_loss_falls_on_a_toy_voice():
    torch.manual_seed(0)
    objective = NoisePredictionObjective(toy_model(), CONFIG)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-3)
    losses = []
    for step in range(80):
        draws = Draws(0, step, range(16))
        loss, _ = objective(objective.draw(toy_batch(draws), draws))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(1.0, abs=0.1)  # the untrained network predicts no noise at all
    assert sum(losses[-10:]) / 10 < 0.6
