"""Compares two runs of `comosvc-bench rtf`, with the noise of their ratios."""

import math
from dataclasses import dataclass

from ...runtime.errors import OptionError
from ..report import ResultError, is_same_machine, machine_in_words
from .results import TOTAL, SpeedReport, Timing

Row = tuple[str, str, str, int | None, int, int, float, str]
"""System, engine, precision, singers, threads, batch, seconds, stage."""


@dataclass(frozen=True)
class Comparison:
    """One row in both runs."""

    before: Timing
    after: Timing
    ratio: float
    """After over before; with a reference, of the ratios to it."""
    noise: float
    """Half of the 95 % interval of `ratio`, as a share of it."""
    fail_over: float

    @property
    def slower(self) -> bool:
        """By more than is allowed, and that beyond the noise."""
        return self.ratio > 1.0 + self.fail_over + self.noise

    @property
    def verdict(self) -> str:
        """ "slower", "faster", "perhaps slower" where noise may explain it, or empty."""
        if self.slower:
            return "slower"
        if self.ratio > 1.0 + self.fail_over:
            return "perhaps slower"
        return "faster" if self.ratio < 1.0 - self.fail_over - self.noise else ""


@dataclass(frozen=True)
class Compared:
    """All rows that both runs have, and those that only one has."""

    rows: tuple[Comparison, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]

    @property
    def slower(self) -> list[Comparison]:
        return [row for row in self.rows if row.slower]


def parse_share(text: str) -> float:
    """`"5%"` or `"0.05"`. Raises `OptionError`."""
    try:
        share = float(text.removesuffix("%")) / (100.0 if text.endswith("%") else 1.0)
    except ValueError:
        share = math.nan
    if not 0.0 <= share <= 10.0:
        raise OptionError(f"--fail-over {text!r}; it takes a share such as 5% or 0.05")
    return share


def compare_reports(
    before: SpeedReport,
    after: SpeedReport,
    fail_over: float,
    *,
    stages: bool = False,
    reference: str | None = None,
    force: bool = False,
) -> Compared:
    """Compare medians row by row, those of whole chains or with `stages` all.

    `reference`: a system; each row is first divided by that system's in the same file, engine, precision and size,
    which holds on other machines too. Raises `ResultError` for runs on different machines without `reference` or
    `force`, and where there is nothing in common.
    """
    if reference is None and not force and not is_same_machine(before.provenance.machine, after.provenance.machine):
        one, other = (machine_in_words(run.provenance.machine) for run in (before, after))
        raise ResultError(
            f"the two were measured on different machines: {one} and {other}\n"
            "hint: --relative-to SYSTEM compares each row's ratio to that system's in its own file, which carries "
            "over; --force compares seconds all the same"
        )
    old, new = _by_row(before, stages), _by_row(after, stages)
    common = [row for row in old if row in new]
    if not common:
        raise ResultError("the two files have no row in common: other systems, engines, lengths, batches or threads")
    if reference is not None:
        common = [row for row in common if row[0] != reference and _beside(row, reference) in old.keys() & new.keys()]
        if not common:
            raise ResultError(f"--relative-to {reference}: no row of another system has it beside it in both files")
    return Compared(
        tuple(_compared(row, old, new, reference, fail_over) for row in common),
        only_before=tuple(_in_words(row) for row in old if row not in new),
        only_after=tuple(_in_words(row) for row in new if row not in old),
    )


def _compared(
    row: Row, old: dict[Row, Timing], new: dict[Row, Timing], reference: str | None, fail_over: float
) -> Comparison:
    involved = [new[row], old[row]]
    ratio = new[row].median_s / old[row].median_s
    if reference is not None:
        beside = _beside(row, reference)
        ratio *= old[beside].median_s / new[beside].median_s
        involved += [new[beside], old[beside]]
    return Comparison(old[row], new[row], ratio, math.hypot(*(_noise(timing) for timing in involved)), fail_over)


def _noise(timing: Timing) -> float:
    """Fewer than three repetitions say nothing about noise: nothing is then beyond it."""
    return math.inf if timing.noise is None else timing.noise


def _by_row(report: SpeedReport, stages: bool) -> dict[Row, Timing]:
    return {_row(timing): timing for timing in report.rows if stages or timing.stage == TOTAL}


def _row(t: Timing) -> Row:
    return t.system, t.engine, t.precision, t.singers, t.threads, t.batch, t.seconds, t.stage


def _beside(row: Row, system: str) -> Row:
    return (system, *row[1:3], None, *row[4:])


def _in_words(row: Row) -> str:
    system, engine, precision, singers, threads, batch, seconds, stage = row
    cast = "" if singers is None else f", {singers} singers"
    return f"{system} ({engine} {precision}{cast}), {seconds:g} s, batch {batch}, {threads} thread(s), {stage}"
