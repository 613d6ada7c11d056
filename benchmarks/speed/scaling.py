"""How cost grows: with the clip, the batch, the threads and the singers of a voice."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .results import SpeedReport, Timing
from .variants import VariantKey

WORSE_THAN_LINEAR = 1.05
"""An exponent above this is flagged; the rest is room for noise."""
SLOWER = 1.0
"""More threads that are slower than one are flagged."""


@dataclass(frozen=True)
class Scaling:
    """Median seconds of a system at several values of one quantity, everything else fixed."""

    key: VariantKey
    against: str
    """"length", "batch", "threads" or "singers"."""
    fixed: str
    values: tuple[float, ...]
    median_s: tuple[float, ...]

    @property
    def exponent(self) -> float:
        """b of the least-squares fit seconds = a * value^b: 1 is linear, -1 is what threads can give at best."""
        return float(np.polyfit(np.log(self.values), np.log(self.median_s), 1)[0])

    @property
    def flag(self) -> str:
        """Empty where all is well."""
        if self.against == "threads":
            return "more threads are slower" if self.median_s[-1] > SLOWER * self.median_s[0] else ""
        return "worse than linear" if self.exponent > WORSE_THAN_LINEAR else ""


def find_scalings(report: SpeedReport) -> list[Scaling]:
    """Of every whole chain, along every quantity that it was measured at two values of or more."""
    rows = report.totals()
    own = [row for row in rows if row.singers is None]
    return [
        *_along(own, "length", lambda r: r.seconds, lambda r: f"batch {r.batch}, {r.threads} thread(s)"),
        *_along(own, "batch", lambda r: r.batch, lambda r: f"{r.seconds:g} s, {r.threads} thread(s)"),
        *_along(own, "threads", lambda r: r.threads, lambda r: f"{r.seconds:g} s, batch {r.batch}"),
        *_along(
            [row for row in rows if row.singers is not None],
            "singers",
            lambda r: r.singers or 1,
            lambda r: f"{r.seconds:g} s, batch {r.batch}, {r.threads} thread(s)",
        ),
    ]


def _along(
    rows: Sequence[Timing], against: str, value: Callable[[Timing], float], fixed: Callable[[Timing], str]
) -> list[Scaling]:
    groups: dict[tuple[VariantKey, str], list[Timing]] = {}
    for row in rows:
        key = VariantKey(row.system, row.engine, row.precision)
        groups.setdefault((key, fixed(row)), []).append(row)
    found = []
    for (key, where), members in groups.items():
        members = sorted(members, key=value)
        if len({value(row) for row in members}) > 1:
            seconds = tuple(row.median_s for row in members)
            found.append(Scaling(key, against, where, tuple(value(row) for row in members), seconds))
    return found
