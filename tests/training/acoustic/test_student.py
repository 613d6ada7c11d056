"""Distillation: what is trained, what stays, and that the student comes to follow the teacher's ODE."""

import pytest
import torch
from toy_voice import toy_batch, toy_model

from comosvc.training.acoustic.dataset import batch_condition
from comosvc.training.acoustic.diffusion import consistency_sample, euler_sample, karras_sigmas
from comosvc.training.acoustic.teaching import (
    StudentConfig,
    StudentObjective,
    TeacherConfig,
    TeacherObjective,
    denoise_with,
    denoising_errors,
)
from comosvc.training.loop.batches import Draws
from comosvc.training.loop.loop import LoopConfig

LOOP = LoopConfig(steps=1, batch_size=8, learning_rate=2e-3, final_learning_rate=1e-4, precision="fp32")


def draws(seed, n):
    return Draws(seed, 0, range(n))


def drawn(objective, draws):
    return objective.draw(toy_batch(draws), draws)


def optimise(objective, n_steps, rate):
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=rate)
    losses = []
    for step in range(n_steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - step / n_steps)
        objective.before_step()
        loss, _ = objective(drawn(objective, Draws(1, step, range(8))))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.fixture(scope="module")
def teacher():
    model = toy_model()
    optimise(TeacherObjective(model, TeacherConfig(loop=LOOP, mixed_sigmas=True)), 400, 3e-3)
    return model


def test_defaults_are_the_published_recipe():
    config = StudentConfig(loop=LOOP)
    published = (config.ladder_size, config.target_decay, config.loss_scale, config.pseudo_huber, config.data_l1_weight)
    assert published == (25, 0.95, 1000.0, None, 0.0)
    assert config.noise_scale == 1.0
    departed = StudentConfig(loop=LOOP, pseudo_huber=0.03, data_l1_weight=0.1, noise_scale=0.8)
    assert departed.as_published() == config


def test_teacher_learns_to_denoise_at_every_level(teacher):
    errors = denoising_errors(toy_batch(draws(5, 8)))
    before, after = errors(toy_model()), errors(teacher)
    assert all(after[name] < before[name] for name in before), (before, after)
    assert after["error_at_2.5"] < 0.7 * before["error_at_2.5"]


def test_only_the_denoiser_is_trained(teacher):
    objective = StudentObjective(copy(teacher), StudentConfig(loop=LOOP))
    before = {name: p.clone() for name, p in objective.named_parameters()}
    optimise(objective, 3, 1e-3)
    changed = {name for name, p in objective.named_parameters() if not torch.equal(p, before[name])}
    assert any(name.startswith("model.denoiser.") for name in changed)
    assert {name.split(".")[0] for name in changed} == {"model", "target"}
    assert all(name.startswith(("model.denoiser.", "target.")) for name in changed)


def test_loss_is_the_squared_distance_to_the_target_network(teacher):
    """The formula written out for one level of the ladder."""
    objective = StudentObjective(copy(teacher), StudentConfig(loop=LOOP, ladder_size=2))
    data = drawn(objective, draws(2, 4))
    loss, _ = objective(data)
    y, z = teacher.normalise(data["mel"]), data["noise"]
    embedded = teacher.embed(batch_condition(teacher, data))
    predicted = teacher.denoise(y + 80 * z, torch.full((4,), 80.0), embedded)
    ratio = 0.002 / 80
    # With a ladder of two, one Euler step of the teacher ends at sigma_min, where f(x, sigma_min) = x.
    target = ratio * (y + 80 * z) + (1 - ratio) * predicted
    assert loss.item() == pytest.approx(1000 * ((predicted - target) ** 2).mean().item(), rel=1e-3)


def test_student_follows_the_teachers_ode_from_the_same_noise(teacher):
    objective = StudentObjective(copy(teacher), StudentConfig(loop=LOOP))
    optimise(objective, 250, 1e-3)
    data = toy_batch(draws(7, 16))
    z, other = (draws(seed, 16).normal(24, 80) for seed in (8, 9))
    sigma = teacher.config.sigma
    with torch.no_grad():
        embedded = teacher.embed(batch_condition(teacher, data))
        end = euler_sample(denoise_with(teacher, embedded), z, karras_sigmas(25, sigma))
        undistilled = consistency_sample(denoise_with(teacher, embedded), [z], sigma)
        same, elsewhere = (
            consistency_sample(denoise_with(objective.model, embedded), [noise], sigma) for noise in (z, other)
        )
    distance = [(x - end).abs().mean().item() for x in (same, elsewhere, undistilled)]
    assert distance[0] < 0.7 * distance[1]
    assert distance[0] < 0.9 * distance[2]


def copy(model):
    twin = toy_model()
    twin.load_state_dict(model.state_dict())
    return twin
