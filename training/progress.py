"""Signs of life of work that takes long: a bar on a terminal, a line a minute elsewhere."""

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
"""(what is being done, share that is done from 0 to 1 or None where that is not known)."""


class MinuteLines:
    """While it is open, a thread logs a line every `EVERY_S` seconds: `what`, the last text, the time so far."""

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
    """A bar on a terminal, `MinuteLines` elsewhere; gives the function that moves it on."""
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
    """`items` one after the other, with a bar or lines on how many of `total` (None: their length) are done."""
    total = len(items) if total is None and isinstance(items, Sized) else total
    with shown(what, console or Console(stderr=True)) as report:
        for number, item in enumerate(items):
            report(f"{number} of {total}" if total else str(number), number / total if total else None)
            yield item
