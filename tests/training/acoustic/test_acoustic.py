"""The acoustic network: what an output frame sees, and what the conditions do."""

import pytest
import torch

from comosvc.runtime.audio.spec import COMOSVC_24K
from comosvc.training.acoustic.model import (
    AcousticConfig,
    AcousticModel,
    Condition,
    Denoiser,
    DenoiserConfig,
    HarmonicFeatures,
)

SMALL = DenoiserConfig(channels=16, hidden=8, layers=5, dilation_cycle=(1, 2, 4))
SHAPES = [SMALL, DenoiserConfig(**{**SMALL.__dict__, "lookahead_frames": 2, "input_skip": True})]


def randomised(module):
    torch.manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module


def test_published_context_is_twenty_frames_each_way():
    with torch.device("meta"):
        assert Denoiser(DenoiserConfig(), 80).context_frames == (20, 20)


@pytest.mark.parametrize("config", SHAPES)
@pytest.mark.parametrize("which", ["x", "condition"])
def test_context_is_exact(config, which):
    denoiser = randomised(Denoiser(config, 80)).double()
    past, future = denoiser.context_frames
    if which == "condition":  # enters behind the first convolution
        first_past, first_future = denoiser.layers[0].padding
        past, future = past - first_past, future - first_future
    inputs = {"x": torch.randn(1, 80, 80).double(), "condition": torch.randn(1, 80, 8).double()}
    sigma = torch.zeros(1).double()
    before = denoiser(inputs["x"], sigma, inputs["condition"])
    inputs[which][0, 40] += 1.0
    after = denoiser(inputs["x"], sigma, inputs["condition"])
    changed = (after != before).any(dim=-1)[0].nonzero()[:, 0]
    # An output frame sees `future` frames ahead, so a change at 40 shows from 40 - future on.
    assert changed.min() == 40 - future
    assert changed.max() == 40 + past


def test_bounded_lookahead():
    assert Denoiser(SHAPES[1], 80).context_frames == (2 * (1 + 2 + 4 + 1 + 2) - 2, 2)


def acoustic(**options):
    return randomised(AcousticModel(AcousticConfig(denoiser=SMALL, **options), COMOSVC_24K, 33, 3)).eval()


def condition(model, frames=30):
    generator = torch.Generator().manual_seed(1)
    return Condition(
        content=torch.rand(2, 20, 33, generator=generator),
        content_index=torch.linspace(0, 19, frames).int().expand(2, -1),
        f0_hz=200 + 100 * torch.rand(2, frames, generator=generator),
        loudness=torch.rand(2, frames, generator=generator),
        singer=model.singer_embed(torch.tensor([0, 2])),
    )


@pytest.mark.parametrize("options", [{}, {"harmonic_embedding": True, "log_loudness": True}])
def test_every_part_of_the_condition_reaches_the_embedding(options):
    model = acoustic(**options)
    base = condition(model)
    embedded = model.embed(base)
    for name, change in {"content": 0.5, "f0_hz": 30.0, "loudness": 0.2, "singer": 1.0}.items():
        other = condition(model)
        setattr(other, name, getattr(other, name) + change)
        assert not torch.allclose(model.embed(other), embedded), name


def test_denoiser_at_sigma_min_returns_its_input():
    model = acoustic()
    x = torch.randn(2, 30, 80)
    same = model.denoise(x, torch.full((2,), model.config.sigma.sigma_min), model.embed(condition(model)))
    torch.testing.assert_close(same, x)


def test_normalise_and_denormalise_are_inverse():
    model = acoustic()
    model.mel_mean.copy_(torch.linspace(-3, 1, 80))
    model.mel_scale.fill_(0.7)
    mel = torch.randn(1, 9, 80)
    torch.testing.assert_close(model.denormalise(model.normalise(mel)), mel)


def test_harmonic_features_peak_on_harmonics_and_vanish_unvoiced():
    features = HarmonicFeatures(COMOSVC_24K)
    f0 = torch.tensor([[400.0, 0.0]])
    voiced, unvoiced = features(f0)[0]
    centres = features.centres_hz
    on = voiced[:-1][(centres - 800).abs().argmin()]
    between = voiced[:-1][(centres - 600).abs().argmin()]
    assert on > 0.5 > -0.5 > between
    assert voiced[-1] == 1.0
    assert not unvoiced.any()
