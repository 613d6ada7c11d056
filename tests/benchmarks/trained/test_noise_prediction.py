import numpy as np
import pytest
import torch
from toy_voice import toy_batch, toy_model

from comosvc.benchmarks.trained.rivals import NoisePredictionConfig, NoisePredictionObjective
from comosvc.training.loop.batches import Draws
from comosvc.training.loop.loop import LoopConfig

LOOP = LoopConfig(steps=1, batch_size=8, learning_rate=1e-3, final_learning_rate=1e-4)
CONFIG = NoisePredictionConfig(loop=LOOP, crop_frames=24)


def test_the_schedule_begins_and_ends_as_published():
    levels = NoisePredictionObjective(toy_model(), CONFIG).levels
    assert len(CONFIG.betas) == 1000
    assert (CONFIG.betas[0], CONFIG.betas[-1]) == pytest.approx((1e-4, 0.02))
    np.testing.assert_allclose(levels[[0, -1]], (1 - 1e-4, 4.036e-5), rtol=1e-3)  # the product, to four digits


def test_the_network_gets_the_mel_and_the_noise_in_their_shares():
    objective, draws = NoisePredictionObjective(toy_model(), CONFIG), Draws(0, 0, range(4))
    batch, seen = objective.draw(toy_batch(draws), draws), []
    objective.model.denoiser.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    objective(batch)
    ((x, t, _),) = seen
    level = torch.cumprod(1 - torch.tensor(CONFIG.betas), 0)[batch["t"]].view(-1, 1, 1).float()
    wanted = level.sqrt() * objective.model.normalise(batch["mel"]) + (1 - level).sqrt() * batch["noise"]
    torch.testing.assert_close(x, wanted)
    assert torch.equal(t, batch["t"].float())


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
