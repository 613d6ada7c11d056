"""Which of a student's weights become a voice."""

import pytest
import torch

from comosvc.export.bundle.voice import WEIGHTS, load_student
from comosvc.export.errors import ExportError
from comosvc.runtime.audio.spec import COMOSVC_24K as SPEC
from comosvc.training.acoustic.model import AcousticConfig, AcousticModel, Denoiser, DenoiserConfig
from comosvc.training.config import to_mapping
from comosvc.training.loop.checkpoint import save_checkpoint

ACOUSTIC = AcousticConfig(denoiser=DenoiserConfig(channels=8, hidden=4, layers=1))


@pytest.fixture
def checkpoint(tmp_path):
    modules = {"model": AcousticModel(ACOUSTIC, SPEC, 5, 2), "ema": AcousticModel(ACOUSTIC, SPEC, 5, 2)}
    modules["target"] = Denoiser(ACOUSTIC.denoiser, SPEC.n_mels)
    config = {"audio": to_mapping(SPEC), "acoustic": to_mapping(ACOUSTIC), "n_content": 5, "singers": ["a", "b"]}
    optimizer = torch.optim.AdamW(modules["model"].parameters())
    return modules, save_checkpoint(tmp_path, 1, modules, optimizer, config)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_each_choice_is_its_own_network(checkpoint, weights):
    modules, path = checkpoint
    found = load_student(path, weights)
    denoiser = modules["target"] if weights == "target" else modules["ema" if weights == "ema" else "model"].denoiser
    torch.testing.assert_close(found.denoiser.state_dict(), denoiser.state_dict())
    embeddings = modules["ema" if weights == "ema" else "model"].singer_embed.weight
    torch.testing.assert_close(found.singer_embed.weight, embeddings)


def test_unknown_weights_are_refused(checkpoint):
    with pytest.raises(ExportError, match="ema, online, target"):
        load_student(checkpoint[1], "best")
