"""A system as it is run: in one engine and one precision."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .chain import Chain


@dataclass(frozen=True)
class VariantKey:
    """A system as it is run: what a row of the results is about. `singers`: a cast of another size than its own."""

    system: str
    engine: str
    precision: str
    singers: int | None = None

    def __str__(self) -> str:
        cast = "" if self.singers is None else f", {self.singers} singers"
        return f"{self.system} ({self.engine} {self.precision}{cast})"


@dataclass(frozen=True)
class Variant:
    """How to run it. `make_ready` runs first, in a process of its own; `open` gets its result, in another one.

    Both are importable by name, so that another process can have them.
    """

    key: VariantKey
    make_ready: Callable[[], Any]
    open: Callable[[Any, int], Chain]
    provider: str | None = None


@dataclass(frozen=True)
class Skipped:
    """A combination that was asked for and cannot be run here. `device`: where it can; None: nowhere."""

    key: VariantKey
    why: str
    device: str | None
