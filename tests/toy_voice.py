"""An acoustic model and material of a few kilobytes, for tests of training."""

import torch

from comosvc.runtime.audio.spec import COMOSVC_24K
from comosvc.training.acoustic.model import AcousticConfig, AcousticModel, DenoiserConfig
from comosvc.training.loop.batches import Draws

SMALL = DenoiserConfig(channels=32, hidden=16, layers=3, input_skip=True)


def toy_batch(draws):
    """A toy voice: the mel follows the content, with noise that the condition does not tell."""
    content = 0.5 + 0.3 * draws.normal(24, 4)
    pattern = torch.linspace(0, 3, 4 * 80).sin().view(4, 80)
    mel = content @ pattern + 0.3 * draws.normal(24, 80)
    flat = torch.ones(len(draws), 24)
    return {
        "mel": mel,
        "content": content,
        "f0_hz": 200 * flat,
        "loudness": 0.1 * flat,
        "singer": torch.zeros(len(draws)).long(),
    }


def toy_model():
    """Untrained, always the same."""
    torch.manual_seed(0)
    model = AcousticModel(AcousticConfig(denoiser=SMALL), COMOSVC_24K, 4, 2)
    mel = toy_batch(Draws(9, 0, range(64)))["mel"]
    model.mel_mean.copy_(mel.mean(dim=(0, 1)))
    model.mel_scale.fill_((mel - mel.mean(dim=(0, 1))).std().item() / 0.5)
    return model
