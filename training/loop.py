"""The one training loop: Lightning Fabric for device and precision, everything else in sight.

Every random draw of a step comes from a generator seeded with (seed, step), so a run that is killed and resumed sees
what the uninterrupted one would have seen.
"""

import logging
import math
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import torch
from lightning.fabric import Fabric
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from .checkpoint import (
    latest_checkpoint,
    load_module,
    load_optimizer,
    read_metadata,
    require_checkpoint,
    require_space,
    save_checkpoint,
)
from .errors import TrainingError

logger = logging.getLogger(__name__)
Batch = Mapping[str, Tensor]
Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How one stage is optimised: AdamW, linear warm-up, cosine decay."""

    steps: int
    batch_size: int
    learning_rate: float
    final_learning_rate: float
    warmup_steps: int = 200
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    gradient_clip: float = 1.0
    ema_decay: float = 0.999
    """Decay of the averaged weights; 0 keeps none."""
    checkpoint_every: int = 500
    log_every: int = 50
    precision: Literal["bf16", "fp32"] = "bf16"
    """Of the matrix products; everything else stays float32. A device without bf16 instructions takes fp32 instead."""


class Objective(nn.Module, Generic[Model]):
    """What a stage minimises. `model` is the network that is kept; `forward` gives the loss and figures to log."""

    model: Model

    def forward(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
        raise NotImplementedError

    def before_step(self) -> None:
        """Called before each loss."""

    def extra_modules(self) -> dict[str, nn.Module]:
        """Further networks that a checkpoint must hold."""
        return {}


def learning_rate(step: int, config: LoopConfig) -> float:
    """Linear warm-up, then a cosine from `learning_rate` to `final_learning_rate` at the last step."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    low, high = config.final_learning_rate, config.learning_rate
    return low + 0.5 * (high - low) * (1.0 + math.cos(math.pi * min(1.0, progress)))


def step_generator(seed: int, step: int) -> torch.Generator:
    """A generator of this step's random draws, independent of every other step's."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) * 2_654_435_761 % 2**63)


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """average <- decay * average + (1 - decay) * model."""
    for target, source in zip(average.parameters(), model.parameters(), strict=True):
        target.lerp_(source, 1.0 - decay)


def fit(
    objective: Objective[Model],
    make_batch: Callable[[torch.Generator], Batch],
    config: LoopConfig,
    folder: Path,
    *,
    seed: int,
    resolved_config: Mapping[str, Any],
    resume: bool,
    device: str = "auto",
    validate: Callable[[Model], Mapping[str, float]] | None = None,
    console: Console | None = None,
) -> Path:
    """Minimise `objective` for `config.steps` and return the last checkpoint, which holds `model`, `ema` and the
    optimiser.

    A finished stage returns at once. A half-done one goes on only with `resume`, and only under the same
    configuration. `validate` is called on the averaged model at each checkpoint; its figures go to TensorBoard.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Not Fabric's own mixed precision: it rounds the batch to bf16 too, which is the noise floor of a mel at low sigma.
    fabric = Fabric(accelerator=device, devices=1, precision="32-true")
    autocast = torch.autocast(fabric.device.type, torch.bfloat16, enabled=_half(config.precision, fabric.device))
    average = deepcopy(objective.model).requires_grad_(False)
    optimizer = torch.optim.AdamW(
        [p for p in objective.parameters() if p.requires_grad],
        lr=config.learning_rate,
        betas=config.betas,
        weight_decay=config.weight_decay,
    )
    stored = {"model": objective.model, "ema": average, **objective.extra_modules()}
    first_step = _restore(folder, stored, optimizer, resolved_config, resume)
    if first_step >= config.steps:
        return require_checkpoint(folder)
    require_space(folder, 12 * sum(p.nbytes for p in objective.parameters()))
    average.to(fabric.device)
    trained, optimizer = fabric.setup(objective, optimizer)
    writer = SummaryWriter(folder / "tensorboard", purge_step=first_step)
    with writer, _progress(console) as progress:
        task = progress.add_task(folder.name, total=config.steps, completed=first_step, loss=math.nan)
        for step in range(first_step, config.steps):
            objective.before_step()
            generator = step_generator(seed, step)
            batch = {name: tensor.to(fabric.device) for name, tensor in make_batch(generator).items()}
            optimizer.param_groups[0]["lr"] = learning_rate(step, config)
            with autocast:
                loss, figures = trained(batch, generator)
            if not torch.isfinite(loss):
                raise TrainingError(
                    f"the loss of {folder.name} became {loss.item()} at step {step}; "
                    f"the last checkpoint is {latest_checkpoint(folder)}\n"
                    "hint: lower learning_rate, or look for broken clips with: comosvc-train prepare"
                )
            fabric.backward(loss)
            fabric.clip_gradients(trained, optimizer, max_norm=config.gradient_clip)
            optimizer.step()
            optimizer.zero_grad()
            # The start-up correction keeps the random initial weights out of the average.
            update_average(average, objective.model, min(config.ema_decay, (1 + step) / (10 + step)))
            if step % config.log_every == 0:
                for name, value in {"loss": loss, **figures}.items():
                    writer.add_scalar(name, value.item(), step)
                progress.update(task, completed=step + 1, loss=loss.item())
            if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps:
                measured = dict(validate(average)) if validate else {}
                for name, value in measured.items():
                    writer.add_scalar(f"valid/{name}", value, step + 1)
                # The progress bar is for a terminal; this line is for a log.
                shown = ", ".join(f"{name} {value:.4g}" for name, value in {"loss": loss.item(), **measured}.items())
                logger.info("%s step %d/%d: %s", folder.name, step + 1, config.steps, shown)
                save_checkpoint(folder, step + 1, stored, optimizer, resolved_config)
        progress.update(task, completed=config.steps)
    return require_checkpoint(folder)


def _half(precision: str, device: torch.device) -> bool:
    """Whether bf16 is wanted and the device is fast at it; emulated, it takes longer than float32."""
    if device.type == "cpu":
        supported = torch.cpu.get_capabilities().get("avx512_bf16") or torch.cpu.get_capabilities().get("amx_bf16")
    else:
        supported = torch.cuda.is_bf16_supported(including_emulation=False)
    if precision == "bf16" and not supported:
        logger.info("this device has no bf16 instructions: training in fp32")
    return precision == "bf16" and bool(supported)


def _restore(
    folder: Path,
    stored: Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    resolved_config: Mapping[str, Any],
    resume: bool,
) -> int:
    """Load the latest checkpoint of `folder`, if any, and return the step to go on from."""
    path = latest_checkpoint(folder)
    if path is None:
        return 0
    step, config = read_metadata(path)
    if config != resolved_config:
        changed = sorted(key for key in {*config, *resolved_config} if config.get(key) != resolved_config.get(key))
        raise TrainingError(
            f"{folder} was trained with another configuration (differs in: {', '.join(changed)})\n"
            "hint: use the same configuration, another -o folder, or delete this stage's folder"
        )
    if step < resolved_config["loop"]["steps"] and not resume:
        raise TrainingError(
            f"{folder} stopped at step {step}\nhint: add --resume to go on from there, or delete the folder"
        )
    for name, module in stored.items():
        load_module(path, name, module)
    load_optimizer(path, optimizer)
    logger.info("%s: going on from step %d", folder.name, step)
    return step


def _progress(console: Console | None) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _SpeedColumn(),
        TimeRemainingColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
        console=console,
    )


class _SpeedColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f} step/s" if task.speed else "– step/s")
