"""The one training loop: Lightning Fabric for devices and processes, everything else in sight.

Every random draw is keyed by the step and by the sample, so a run that is killed and resumed sees what the
uninterrupted one would have seen, and several processes see what one with a larger batch would have seen.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, cast

import numpy as np
import torch
from lightning.fabric import Fabric
from rich.console import Console
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from ..config import to_mapping
from ..errors import ConfigError, TrainingError
from .batches import Batch, Draws, Loader
from .checkpoint import Snapshot, keep_best, latest_checkpoint, require_checkpoint, require_space, restore
from .devices import MixedPrecision, Placement, Precision, Strategy, open_fabric
from .log import TrainingLog

Model = TypeVar("Model", bound=nn.Module)
_LEAST = {
    "steps": 0, "batch_size": 1, "accumulate": 1, "checkpoint_every": 1, "log_every": 1, "keep": 1, "nodes": 1,
    "devices": 0, "warmup_steps": 0, "learning_rate": 0, "final_learning_rate": 0, "weight_decay": 0,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How one stage is optimised: AdamW, linear warm-up, cosine decay; and on what.

    A step sees `batch_size` x `accumulate` x `devices` x `nodes` samples.
    """

    steps: int
    batch_size: int
    """Of each device, at once."""
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
    precision: Precision = "bf16"
    """Of the matrix products; everything else stays float32. A device without bf16 instructions takes fp32 instead."""
    accumulate: int = 1
    """Batches whose gradients are averaged before a step."""
    devices: int = 1
    """Processes on each machine, each with a device of its own; 0: as many as the machine has devices."""
    nodes: int = 1
    """Machines."""
    strategy: Strategy = "auto"
    keep: int = 2
    """Last checkpoints that are kept."""
    best_by: str | None = None
    """A figure of the validation by which the best checkpoint is kept too, as best.safetensors."""
    best_is: Literal["lowest", "highest"] = "lowest"

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            if (value := getattr(self, name)) < least:
                raise ConfigError(f"{name} is {value}; it must be {least} or more")
        if self.gradient_clip <= 0.0:
            raise ConfigError(f"gradient_clip is {self.gradient_clip}; it must be above 0")
        if not 0.0 <= self.ema_decay < 1.0:
            raise ConfigError(f"ema_decay is {self.ema_decay}; it must be 0 or more and below 1")


class Objective(nn.Module, Generic[Model]):
    """What a stage minimises. `model` is the network that is kept; `forward` gives the loss, a mean over the samples of
    the batch, and figures to log.
    """

    model: Model

    def draw(self, batch: Batch, draws: Draws) -> Batch:
        """`batch` with everything random that `forward` needs added, made beside the computation of earlier steps."""
        return batch

    def forward(self, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        raise NotImplementedError

    def before_step(self) -> None:
        """Called before each step."""

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


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """average <- decay * average + (1 - decay) * model."""
    for target, source in zip(average.parameters(), model.parameters(), strict=True):
        target.lerp_(source, 1.0 - decay)


def fit(
    objective: Objective[Model],
    make_batch: Callable[[Draws], Batch],
    config: LoopConfig,
    folder: Path,
    *,
    seed: int,
    resolved_config: Mapping[str, Any],
    resume: bool,
    device: str = "auto",
    validate: Callable[[Model], Mapping[str, float]] | None = None,
    illustrate: Callable[[Model, int, SummaryWriter], None] | None = None,
    console: Console | None = None,
) -> Path:
    """Minimise `objective` for `config.steps` and return the last checkpoint, which holds `model`, `ema` and the
    optimiser.

    A finished stage returns at once. A half-done one goes on only with `resume`, and only under the same
    configuration; devices and accumulation may be others as long as a step sees as many samples. `validate` is called
    by the first process on the averaged model at each checkpoint; its figures go to TensorBoard and may choose the
    best checkpoint. `illustrate` is called with it too: for pictures and sound.
    """
    folder.mkdir(parents=True, exist_ok=True)
    fabric = open_fabric(Placement(device=device, devices=config.devices, nodes=config.nodes, strategy=config.strategy))
    nodes = getattr(fabric.strategy, "num_nodes", 1)
    config = replace(config, devices=fabric.world_size // nodes, nodes=nodes)
    optimizer = torch.optim.AdamW(
        [p for p in objective.parameters() if p.requires_grad],
        lr=config.learning_rate,
        betas=config.betas,
        weight_decay=config.weight_decay,
    )
    average = deepcopy(objective.model).requires_grad_(False)
    snapshot = Snapshot(
        folder=folder,
        modules={"model": objective.model, "ema": average, **objective.extra_modules()},
        optimizer=optimizer,
        precision=MixedPrecision(config.precision, fabric.device),
        config={**resolved_config, "loop": to_mapping(config)},
    )
    first_step = restore(snapshot, resume)
    if first_step >= config.steps:
        return require_checkpoint(folder)
    require_space(folder, 12 * sum(p.nbytes for p in objective.parameters()))
    stage = Stage(objective, config, fabric, snapshot, seed)
    loader = Loader(lambda step: stage.batches(step, make_batch), range(first_step, config.steps))
    with TrainingLog(folder, first_step, config.steps, console, enabled=fabric.is_global_zero) as log:
        for step, batches in loader:
            figures = stage.step(step, batches)
            if step % config.log_every == 0:
                log.step(step, {**stage.over_all(figures), "loader_wait": loader.wait_fraction()})
            if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps:
                measured = dict(validate(stage.average)) if validate and fabric.is_global_zero else {}
                log.checkpoint(step + 1, float(figures["loss"]), measured)
                stage.save(step + 1, measured)
                if illustrate is not None:
                    log.illustrate(lambda writer, done=step + 1: illustrate(stage.average, done, writer))
    return require_checkpoint(folder)


class Stage(Generic[Model]):
    """One run of `fit`, on this process's own device."""

    def __init__(
        self, objective: Objective[Model], config: LoopConfig, fabric: Fabric, snapshot: Snapshot, seed: int
    ) -> None:
        self.objective, self.config, self.fabric, self.snapshot, self.seed = objective, config, fabric, snapshot, seed
        self.trained, _ = fabric.setup(objective, snapshot.optimizer)
        self.average = cast(Model, snapshot.modules["ema"].to(fabric.device))

    def batches(self, step: int, make_batch: Callable[[Draws], Batch]) -> list[Batch]:
        """This process's share of the samples of a step, in the parts that are accumulated."""
        size, world, rank = self.config.batch_size, self.fabric.world_size, self.fabric.global_rank
        parts = []
        for first in range(rank * size, self.config.accumulate * world * size, world * size):
            draws = Draws(self.seed, step, range(first, first + size))
            batch = self.objective.draw(make_batch(draws), draws)
            pin = self.fabric.device.type == "cuda"
            parts.append({name: tensor.pin_memory() if pin else tensor for name, tensor in batch.items()})
        return parts

    def step(self, step: int, batches: Sequence[Batch]) -> dict[str, Tensor]:
        """One step of the optimiser; the loss over all processes, and the figures of this one."""
        config, precision, optimizer = self.config, self.snapshot.precision, self.snapshot.optimizer
        self.objective.before_step()
        optimizer.param_groups[0]["lr"] = learning_rate(step, config)
        sums: dict[str, Tensor] = {}
        for part, batch in enumerate(batches):
            # Dropout draws from torch's own generator, which a resumed run would find elsewhere.
            torch.manual_seed(_key(self.seed, step, part, self.fabric.global_rank))
            batch = {name: tensor.to(self.fabric.device, non_blocking=True) for name, tensor in batch.items()}
            alone = self.fabric.world_size == 1 or part + 1 == len(batches)
            with nullcontext() if alone else self.fabric.no_backward_sync(self.trained):
                with precision.autocast():
                    loss, figures = self.trained(batch)
                self.fabric.backward(precision.scaler.scale(loss / len(batches)))
            for name, value in {"loss": loss, **figures}.items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value.detach() / len(batches)
        # Every process must see the same trouble, or the others would wait for it for ever.
        sums["loss"] = cast(Tensor, self.fabric.all_reduce(sums["loss"]))
        self._require(bool(torch.isfinite(sums["loss"])), step, f"the loss became {sums['loss'].item()}")
        finite = precision.update(self.trained, optimizer, config.gradient_clip)
        self._require(finite or precision.scaler.is_enabled(), step, "the gradient became infinite or NaN")
        # The start-up correction keeps the random initial weights out of the average.
        update_average(self.average, self.objective.model, min(config.ema_decay, (1 + step) / (10 + step)))
        return sums

    def over_all(self, figures: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Means over the processes."""
        return {name: cast(Tensor, self.fabric.all_reduce(value)) for name, value in figures.items()}

    def save(self, step: int, measured: Mapping[str, float]) -> None:
        """Checkpoint by the first process. What goes wrong there is raised in all, so that none is left waiting."""
        failure = None
        if self.fabric.is_global_zero:
            try:
                path = self.snapshot.save(step, self.config.keep, measured)
                if self.config.best_by is not None:
                    keep_best(path, self.config.best_by, self.config.best_is)
            except TrainingError as error:
                failure = str(error)
        if failure := self.fabric.broadcast(failure):
            raise TrainingError(failure)

    def _require(self, holds: bool, step: int, what: str) -> None:
        if holds:
            return
        folder, last = self.snapshot.folder, latest_checkpoint(self.snapshot.folder)
        kept = f"the last good checkpoint is {last}" if last else "there was no checkpoint yet"
        again = f"; teacher and student can start from the checkpoint there: --init-from {last}" if last else ""
        raise TrainingError(
            f"{what} at step {step} of {folder.name}; nothing was overwritten, {kept}\n"
            "hint: look for broken clips in features/report.json; else lower learning_rate or set precision to fp32, "
            f"in another -o folder{again}"
        )


def _key(*numbers: int) -> int:
    return int(np.random.SeedSequence([number % 2**64 for number in numbers]).generate_state(1, np.uint64)[0] >> 1)
