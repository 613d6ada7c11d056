"""Progress and logs of long work: a bar on a terminal, a line each minute elsewhere, TensorBoard."""

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from ...runtime.errors import printable

if TYPE_CHECKING:
    from torch import Tensor
    from torch.utils.tensorboard import SummaryWriter

logger = logging.getLogger(__name__)
T = TypeVar("T")
EVERY_S = 60.0
Report = Callable[[str, float | None], object]
"""Called with the current step and the finished share, 0 to 1, or None where the share is unknown."""


def is_first_process() -> bool:
    """Whether this process prints for all, by its environment; true before a launch."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0


class MinuteLines:
    """Context in which a thread logs a line every `EVERY_S` seconds: `what`, the last text, the time so far."""

    def __init__(self, what: str) -> None:
        self.text = ""
        self._what = what
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._write, daemon=True, name="progress")

    def __enter__(self) -> "MinuteLines":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._done.set()
        self._thread.join()

    def report(self, text: str, share: float | None = None) -> None:
        """Set the text of the lines to come."""
        self.text = text if share is None else f"{text}, {share:.0%}"

    def _write(self) -> None:
        start = time.monotonic()
        while not self._done.wait(EVERY_S):
            minutes = (time.monotonic() - start) / 60
            logger.info("%s: %s (%.0f min so far)", self._what, self.text or "at work", minutes)


@contextmanager
def shown(what: str, console: Console) -> Iterator[Report]:
    """Context with a bar on a terminal, `MinuteLines` elsewhere; its value is the function that reports progress."""
    if not console.is_terminal:
        with MinuteLines(what) as lines:
            yield lines.report
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)

        def report(text: str, share: float | None = None) -> None:
            total = None if share is None else 1.0
            bar.update(task, description=printable(f"{what}: {text}"), total=total, completed=share or 0.0)

        yield report


def tracked(items: Iterable[T], what: str, console: Console | None = None, total: int | None = None) -> Iterator[T]:
    """`items` in order, with a bar or lines for their count. `total` None: their length, if they have one."""
    total = len(items) if total is None and isinstance(items, Sized) else total
    with shown(what, console or Console(stderr=True)) as report:
        for number, item in enumerate(items):
            report(f"{number} of {total}" if total else str(number), number / total if total else None)
            yield item


class TrainingLog:
    """The log of a stage in `folder`; the processes beside the first one keep none (`enabled` False).

    A full disk costs the figures, not the training: the checkpoints have their own check.
    """

    def __init__(
        self, folder: Path, first_step: int, steps: int, console: Console | None = None, *, enabled: bool = True
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter  # seconds to import; commands use the rest of this module

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

    def step(self, step: int, figures: "Mapping[str, Tensor | float]") -> None:
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

    def illustrate(self, write: "Callable[[SummaryWriter], None]") -> None:
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
