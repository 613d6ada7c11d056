"""Progress of long work: a bar on a terminal, a log line each minute elsewhere."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from ..runtime.text import printable

logger = logging.getLogger(__name__)
T = TypeVar("T")
EVERY_S = 60.0
Report = Callable[[str, float | None], object]
"""Called with the current step and the finished share, 0 to 1, or None where the share is unknown."""


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
