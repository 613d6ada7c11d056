"""The teacher, the denoiser trained at all noise levels, and the student, distilled from it to need one evaluation."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn

from ..loop.batches import Batch, Draws
from ..loop.loop import LoopConfig, Objective, update_average
from .dataset import batch_condition
from .diffusion import (
    Denoise,
    consistency_sample,
    euler_sample,
    euler_step,
    karras_sigmas,
    loss_weight,
    training_sigmas,
)
from .model import AcousticModel, Denoiser

_NUDGED_EVERY = 4
"""A quarter of the samples is enough for a nudge towards the data and keeps the step cheap."""
PROBED_SIGMAS = (0.05, 0.17, 0.47, 2.5, 10.0, 80.0)


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


@dataclass(frozen=True, kw_only=True)
class StudentConfig:
    """Consistency distillation. The defaults are the published recipe; every departure is a field."""

    loop: LoopConfig
    crop_frames: int = 375
    ladder_size: int = 25
    """Noise levels of the teacher's ODE that is imitated: one Euler step fewer than that. Fewer levels leave less of a
    small teacher's residual noise.
    """
    target_decay: float = 0.95
    """mu of the target network's moving average."""
    loss_scale: float = 1000.0
    pseudo_huber: float | None = None
    """c of sqrt(d^2 + c^2) - c in place of the squared distance."""
    data_l1_weight: float = 0.0
    """Weight of |f(sigma_max z) - y|, which pulls the one-step output towards the recordings; none is published."""
    noise_scale: float = 1.0
    """Scale of the initial noise of the one-step sampler, baked into the exported graph."""

    def as_published(self) -> "StudentConfig":
        """The same amount of training without the departures."""
        usual = {field.name: field.default for field in fields(self) if field.name not in ("loop", "crop_frames")}
        return replace(self, **usual)


class StudentObjective(Objective[AcousticModel]):
    """E d(f(x_{n+1}, t_{n+1}), f_target(x_n, t_n)) with x_n one Euler step of the frozen teacher. Song et al. 2023,
    algorithm 2.

    Only the denoiser is trained: the embeddings of the condition stay the teacher's.
    """

    def __init__(self, model: AcousticModel, config: StudentConfig, initial: Denoiser | None = None) -> None:
        """`model` is the teacher's; the student starts from its weights, or from those of `initial`."""
        super().__init__()
        self.config = config
        self.model = model.requires_grad_(False)
        self.teacher = deepcopy(model.denoiser)
        if initial is not None:
            model.denoiser.load_state_dict(initial.state_dict())
        self.target = deepcopy(model.denoiser)
        model.denoiser.requires_grad_(True)
        self.ladder = karras_sigmas(config.ladder_size, model.config.sigma).flip(0)

    def extra_modules(self) -> dict[str, nn.Module]:
        return {"target": self.target}

    def before_step(self) -> None:
        update_average(self.target, self.model.denoiser, self.config.target_decay)

    def draw(self, batch: Batch, draws: Draws) -> Batch:
        """Adds level (B,), indices into the ladder, noise (B, T, M), and which samples are also pulled to the data."""
        levels = draws.integers(len(self.ladder) - 1)
        drawn = {**batch, "level": levels, "noise": draws.normal(*batch["mel"].shape[1:])}
        if self.config.data_l1_weight:
            drawn["nudged"] = torch.tensor(draws.numbers) % _NUDGED_EVERY == 0
            drawn["initial_noise"] = draws.normal(*batch["mel"].shape[1:])
        return drawn

    def forward(self, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        model = self.model
        y = model.normalise(batch["mel"])
        embedded = model.embed(batch_condition(model, batch))
        n, ladder, z = batch["level"], self.ladder.to(y.device), batch["noise"]
        t_n, t_next = ladder[n], ladder[n + 1]
        x_next = y + t_next.view(-1, 1, 1) * z
        with torch.no_grad():
            x_n = euler_step(x_next, t_next, t_n, model.denoise(x_next, t_next, embedded, self.teacher))
            target = model.denoise(x_n, t_n, embedded, self.target)
        distance = self._distance(model.denoise(x_next, t_next, embedded) - target)
        loss = self.config.loss_scale * distance
        if self.config.data_l1_weight:
            nudged = batch["nudged"]
            pull = self._one_step_l1(y[nudged], embedded[nudged], batch["initial_noise"][nudged])
            loss = loss + self.config.data_l1_weight * self.config.loss_scale * pull
        return loss, {"consistency": distance.detach()}

    def _distance(self, difference: Tensor) -> Tensor:
        if self.config.pseudo_huber is None:
            return (difference**2).mean()
        c = self.config.pseudo_huber
        return ((difference**2 + c**2).sqrt() - c).mean()

    def _one_step_l1(self, y: Tensor, embedded: Tensor, noise: Tensor) -> Tensor:
        sigma_max = self.model.config.sigma.sigma_max
        x = self.config.noise_scale * sigma_max * noise
        return (self.model.denoise(x, torch.full((len(y),), sigma_max, device=y.device), embedded) - y).abs().mean()


def distances_to_teacher(
    on_cpu: Batch, teacher: Denoiser, config: StudentConfig
) -> Callable[[AcousticModel], Mapping[str, float]]:
    """A validation: how far one step from noise is from where the frozen `teacher`'s ODE ends from the same noise,
    on the student's own ladder, relative to the undistilled network (`to_ode`: below 1 it has learned), and from the
    recordings, in the mel's own units (`one_step_l1`).

    The training loss compares neighbouring noise levels and says nothing of the sum of their errors.
    """
    ends: list[tuple[Tensor, float]] = []

    @torch.no_grad()
    def validate(model: AcousticModel) -> Mapping[str, float]:
        batch = {name: tensor.to(model.mel_mean.device) for name, tensor in on_cpu.items()}
        embedded, sigma = model.embed(batch_condition(model, batch)), model.config.sigma
        y = model.normalise(batch["mel"])
        z = config.noise_scale * torch.randn(y.shape, generator=torch.Generator().manual_seed(0)).to(y.device)
        if not ends:
            follow: Denoise = lambda x, level: model.denoise(x, level, embedded, teacher)  # noqa: E731
            end = euler_sample(follow, z, karras_sigmas(config.ladder_size, sigma))
            ends.append((end, float((consistency_sample(follow, [z], sigma) - end).abs().mean())))
        end, undistilled = ends[0]
        x = consistency_sample(denoise_with(model, embedded), [z], sigma)
        l1 = (model.denormalise(x) - batch["mel"]).abs().mean()
        return {"to_ode": float((x - end).abs().mean()) / undistilled, "one_step_l1": float(l1)}

    return validate


def denoise_with(model: AcousticModel, embedded: Tensor) -> Denoise:
    """D(x, sigma) under a fixed condition, as the samplers take it."""
    return lambda x, sigma: model.denoise(x, sigma, embedded)
