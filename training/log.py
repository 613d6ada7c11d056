"""What a stage tells of itself: TensorBoard, a progress bar for a terminal, a line for a log at each checkpoint."""

import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from .progress import MinuteLines

logger = logging.getLogger(__name__)


class TrainingLog:
    """The log of a stage in `folder`; the processes beside the first one keep none (`enabled` False).

    A full disk costs the figures, not the training: the checkpoints have their own check.
    """

    def __init__(
        self, folder: Path, first_step: int, steps: int, console: Console | None = None, *, enabled: bool = True
    ) -> None:
        self._name, self._steps, self._enabled = folder.name, steps, enabled
        self._writer = SummaryWriter(folder / "tensorboard", purge_step=first_step) if enabled else None
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _SpeedColumn(),
            TimeRemainingColumn(),
            TextColumn("loss {task.fields[loss]:.4f}"),
            TextColumn("waiting {task.fields[wait]:.0%}"),
            console=console,
            disable=not enabled,
        )
        self._lines = MinuteLines(folder.name) if enabled and not self._bar.console.is_terminal else None
        self._task = self._bar.add_task(folder.name, total=steps, completed=first_step, loss=math.nan, wait=0.0)

    def __enter__(self) -> "TrainingLog":
        self._bar.start()
        if self._lines is not None:
            self._lines.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._lines is not None:
            self._lines.__exit__(kind, error, at)
        self._bar.stop()
        if self._writer is not None:
            self._keep(self._writer.close)

    def step(self, step: int, figures: Mapping[str, Tensor | float]) -> None:
        """Figures of a step of training, with `loss`, and `loader_wait`, the share of time spent waiting for data."""
        values = {name: float(value) for name, value in figures.items()}
        self._write(values, step)
        self._bar.update(self._task, completed=step + 1, loss=values["loss"], wait=values["loader_wait"])
        if self._lines is not None:
            left = self._bar.tasks[0].time_remaining
            soon = "" if left is None else f", {left / 60:.0f} min to go"
            self._lines.report(f"step {step + 1}/{self._steps}, loss {values['loss']:.4g}{soon}")

    def checkpoint(self, step: int, loss: float, measured: Mapping[str, float]) -> None:
        """Figures of the validation after `step` steps."""
        self._write({f"valid/{name}": value for name, value in measured.items()}, step)
        shown = ", ".join(f"{name} {value:.4g}" for name, value in {"loss": loss, **measured}.items())
        if self._enabled:
            logger.info("%s step %d/%d: %s", self._name, step, self._steps, shown)
        self._bar.update(self._task, completed=step)

    def illustrate(self, write: Callable[[SummaryWriter], None]) -> None:
        """Let `write` put pictures and sound beside the figures."""
        if (writer := self._writer) is not None:
            self._keep(lambda: write(writer))

    def _write(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            if (writer := self._writer) is not None:
                self._keep(lambda writer=writer, name=name, value=value: writer.add_scalar(name, value, step))

    def _keep(self, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as error:
            logger.warning("%s: figures for TensorBoard cannot be written any more: %s", self._name, error)
            self._writer = None


class _SpeedColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f} step/s" if task.speed else "– step/s")
