"""The teacher: the denoiser trained at all noise levels."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..loop.batches import Batch, Draws
from ..loop.loop import LoopConfig, Objective
from .dataset import batch_condition
from .diffusion import karras_sigmas, loss_weight, training_sigmas
from .model import AcousticModel


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    loop: LoopConfig
    crop_frames: int = 375
    mixed_sigmas: bool = False
    """Draw half of the noise levels from the student's ladder instead of the published log-normal distribution."""
    ladder_size: int = 25


class TeacherObjective(Objective[AcousticModel]):
    """E lambda(sigma) |D(y + sigma z; sigma) - y|^2. EDM eq. 8.

    `sigmas`: the only noise levels to draw, for a network that is defined at these levels alone; None: all.
    """

    def __init__(self, model: AcousticModel, config: TeacherConfig, sigmas: Sequence[float] | None = None) -> None:
        super().__init__()
        self.model = model
        self.sigmas = None if sigmas is None else torch.tensor(sigmas)
        self.ladder = karras_sigmas(config.ladder_size, model.config.sigma) if config.mixed_sigmas else None

    def draw(self, batch: Batch, draws: Draws) -> Batch:
        """Adds sigma (B,) and noise (B, T, M)."""
        if self.sigmas is None:
            sigma = training_sigmas(draws, self.model.config.sigma, self.ladder)
        else:
            sigma = self.sigmas[draws.integers(len(self.sigmas))]
        return {**batch, "sigma": sigma, "noise": draws.normal(*batch["mel"].shape[1:])}

    def forward(self, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        y, sigma, z = self.model.normalise(batch["mel"]), batch["sigma"], batch["noise"]
        embedded = self.model.embed(batch_condition(self.model, batch))
        D = self.model.denoise(y + sigma.view(-1, 1, 1) * z, sigma, embedded)
        loss = (loss_weight(sigma, self.model.config.sigma).view(-1, 1, 1) * (D - y) ** 2).mean()
        return loss, {"data_l1": (D - y).abs().mean().detach() * self.model.mel_scale}


PROBED_SIGMAS = (0.05, 0.17, 0.47, 2.5, 10.0, 80.0)


def denoising_errors(
    on_cpu: Batch, sigmas: Sequence[float] = PROBED_SIGMAS
) -> Callable[[AcousticModel], Mapping[str, float]]:
    """A validation: mean |D - y| at fixed noise levels, relative to handing the input through.

    The training loss falls nicely while a network does nothing at low sigma, and a sampler of such a network ends in
    noise. Below 1 here means that it denoises.
    """

    @torch.no_grad()
    def validate(model: AcousticModel) -> Mapping[str, float]:
        device = model.mel_mean.device
        batch = {name: tensor.to(device) for name, tensor in on_cpu.items()}
        y = model.normalise(batch["mel"])
        embedded = model.embed(batch_condition(model, batch))
        z = torch.randn(y.shape, generator=torch.Generator().manual_seed(0)).to(y.device)
        errors = {}
        for sigma in sigmas:
            D = model.denoise(y + sigma * z, torch.full((len(y),), sigma, device=y.device), embedded)
            errors[f"error_at_{sigma:g}"] = float((D - y).abs().mean() / min(sigma * z.abs().mean(), y.abs().mean()))
        return errors

    return validate
