"""The adversary: what each side learns from the other, and that neither moves the other's weights."""

import pytest
import torch

from comosvc.training.vocoder.losses import Adversary, AdversaryConfig, PeriodDiscriminator, ResolutionDiscriminator

SMALL = AdversaryConfig(periods=(2, 5), period_channels=(4, 8), resolutions=(256,), resolution_channels=4)


def signals(scale: float = 1.0):
    generator = torch.Generator().manual_seed(0)
    recording, audio = torch.randn(2, 3, 2_000, generator=generator)
    return scale * audio, recording


def gradients(adversary: Adversary, part: str):
    """Of one part of the loss alone: of the audio, and of the discriminators' weights."""
    audio, recording = signals(0.5)
    audio.requires_grad_()
    duels = [adversary._duel(discriminator, audio, recording) for discriminator in adversary.discriminators]
    loss = sum(duel[("found_out", "features", "telling").index(part)] for duel in duels)
    weights = list(adversary.parameters())
    ours, *theirs = torch.autograd.grad(loss, [audio, *weights], allow_unused=True)
    return ours, theirs


@pytest.mark.parametrize("part", ["found_out", "features"])
def test_the_vocoder_s_loss_leaves_the_discriminators_alone(part):
    torch.manual_seed(0)
    ours, theirs = gradients(Adversary(SMALL), part)
    assert ours.abs().sum() > 0
    assert all(gradient is None for gradient in theirs)


def test_the_discriminators_loss_leaves_the_vocoder_alone_and_reaches_every_weight():
    torch.manual_seed(0)
    ours, theirs = gradients(Adversary(SMALL), "telling")
    assert ours is None
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in theirs)


def test_the_loss_is_the_weighted_sum_of_its_parts():
    torch.manual_seed(0)
    adversary = Adversary(SMALL)
    loss, parts = adversary(*signals())
    wanted = SMALL.weight * parts["found_out"] + SMALL.feature_weight * parts["features"] + parts["telling"]
    torch.testing.assert_close(loss.detach(), wanted)


def test_discriminators_learn_to_tell_loud_from_soft():
    torch.manual_seed(0)
    adversary = Adversary(SMALL)
    optimizer = torch.optim.Adam(adversary.parameters(), lr=1e-2)
    told = []
    for _ in range(30):
        loss, parts = adversary(*signals(0.2))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        told.append(float(parts["telling"]))
    assert told[-1] < 0.5 * told[0]


def test_a_period_folds_samples_that_far_apart_into_a_column():
    """Columns are never mixed: a change in one sample is seen in the column of its phase alone."""
    torch.manual_seed(0)
    discriminator = PeriodDiscriminator(5, (4, 8))
    audio = torch.randn(1, 203)
    changed = audio.clone()
    changed[0, 107] += 1.0
    with torch.no_grad():
        difference = (discriminator(changed)[0] - discriminator(audio)[0]).abs().sum(dim=(0, 1, 2))
    assert difference.nonzero().flatten().tolist() == [107 % 5]


def test_a_resolution_sees_magnitudes_alone():
    torch.manual_seed(0)
    discriminator = ResolutionDiscriminator(256, 4)
    audio = torch.randn(1, 2_000)
    with torch.no_grad():
        torch.testing.assert_close(discriminator(-audio)[0], discriminator(audio)[0])
        assert (discriminator(20.0 * audio)[0] - discriminator(audio)[0]).abs().max() > 1e-3
