"""`comosvc-bench rtf`: every system in every engine at every size, in turns."""

import math
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import product
from typing import Any

import psutil

from ...runtime.errors import ComosvcError
from ..report import Provenance
from .ceilings import measure_ceilings, the_better
from .chain import Skipped, Variant
from .options import RtfOptions
from .results import (
    TOTAL,
    Ceilings,
    CellNoise,
    FullCheck,
    NotMeasured,
    SpeedReport,
    SystemFacts,
    Timing,
    VariantKey,
)
from .timing import Turn, Watch, in_turns
from .worker import Opener, ProcessSession, Session, in_process

Say = Callable[[str], None]
OpenSession = Callable[[str, Opener, int], Session]
Cell = tuple[int, int, float]
"""Threads, batch, seconds of each clip."""
CHECK_SECONDS, CHECK_WITHIN = 10.0, 0.05
MEMORY_SHARE = 0.8
"""Share of the memory that is free at first which loaded systems may take."""
WORK_MB_PER_S = 130.0
"""Memory of a system besides its weights, per second of audio: ONNX Runtime's arena after vocoders of the HiFi-GAN
kind; torch returns about half of it."""


@dataclass
class _Bench:
    """The results so far, and the means of measuring."""

    options: RtfOptions
    say: Say
    open: OpenSession
    keep: Callable[["_Bench"], object]
    """Called after each size, so that the results of a run that is ended early are kept."""
    sitting: int = 0
    systems: list[SystemFacts] = field(default_factory=list)
    ceilings: list[Ceilings] = field(default_factory=list)
    rows: list[Timing] = field(default_factory=list)
    noise: list[CellNoise] = field(default_factory=list)
    checks: list[FullCheck] = field(default_factory=list)
    failed: list[NotMeasured] = field(default_factory=list)
    over: set[tuple[VariantKey, Cell]] = field(default_factory=set)
    """Cells that were measured, or tried."""
    ended: dict[tuple[VariantKey, int], str] = field(default_factory=dict)
    """By system and threads: the reason for its end; empty for a system that was never loaded."""

    @property
    def cells(self) -> list[tuple[int, float]]:
        """Batch and seconds, smallest first: a size that is too large for a system ends its session."""
        return sorted(product(self.options.batches, self.options.lengths_s), key=math.prod)

    def fail(self, key: VariantKey, error: ComosvcError, cell: Cell | None = None) -> None:
        self.failed.append(_not_measured(key, str(error), self.options, self.options.device, cell))
        self.say(f"{self.failed[-1].what}: {error}")


def measure_rtf(
    variants: Sequence[Variant],
    skipped: Sequence[Skipped],
    options: RtfOptions,
    command: str,
    say: Say = lambda _: None,
    open_session: OpenSession = ProcessSession,
    keep: Callable[[SpeedReport], object] = lambda _: None,
) -> SpeedReport:
    """Measure. A system that fails is noted and left out of what follows; raises only if none is left.

    `keep` is called after each size with the results so far, missing sizes among those not measured.
    """
    begun = SpeedReport(provenance=Provenance.here(command, options.device), options=asdict(options))
    leaving = [_not_measured(s.key, s.why, options, s.device) for s in skipped]
    keys: list[VariantKey] = []

    def report(bench: _Bench) -> SpeedReport:
        ceilings = {found.threads: found for found in bench.ceilings}
        return replace(
            begun,
            systems=tuple(bench.systems),
            ceilings=tuple(bench.ceilings),
            rows=tuple(_beside(row, ceilings[row.threads]) for row in bench.rows),
            noise=tuple(bench.noise),
            full_checks=tuple(bench.checks),
            not_measured=(*leaving, *bench.failed, *_missing(bench, keys)),
        )

    bench = _Bench(options, say, open_session, lambda bench: keep(report(bench)) if bench.rows else None)
    ready = _make_ready(bench, variants)
    keys += [variant.key for variant, _ in ready]
    for threads in options.threads:
        _measure_threads(bench, ready, threads)
    if not bench.rows:
        raise ComosvcError("nothing could be measured\n" + "\n".join(f"{f.what}: {f.why}" for f in bench.failed))
    return report(bench)


def _beside(row: Timing, ceilings: Ceilings) -> Timing:
    return replace(row, ceiling_gflop_s=ceilings.gflop_s(row.precision), ceiling_gb_s=ceilings.copy_gb_s)


def _missing(bench: _Bench, keys: Sequence[VariantKey]) -> Iterator[NotMeasured]:
    """Every size of a system that was not come to."""
    for key, threads, (batch, seconds) in product(keys, bench.options.threads, bench.cells):
        cell = threads, batch, seconds
        why = bench.ended.get((key, threads), "the run had not come to it when this was written")
        if why and (key, cell) not in bench.over:
            yield _not_measured(key, why, bench.options, bench.options.device, cell)


def _measure_threads(bench: _Bench, ready: Sequence[tuple[Variant, Any]], threads: int) -> None:
    """All sittings with one number of threads, the ceilings before and after them."""
    options, waiting = bench.options, list(ready)
    bench.say(f"ceilings of this machine, {threads} thread(s): matrix products and a copy, some seconds")
    bench.ceilings.append(in_process(measure_ceilings, threads, options.device))
    while waiting:
        with ExitStack() as stack:
            sessions = _seat(bench, waiting, threads, stack)
            for batch, seconds in bench.cells:
                _measure_cell(bench, sessions, (threads, batch, seconds))
                bench.keep(bench)
            if options.full:
                _check_extrapolation(bench, sessions, threads)
        bench.sitting += 1
    try:
        again = in_process(measure_ceilings, threads, options.device)
        bench.ceilings[-1] = the_better(bench.ceilings[-1], again)
    except ComosvcError as error:  # those from before stand; the rows shall not be lost
        bench.failed.append(NotMeasured(what=f"ceilings, once more, {threads} thread(s)", why=str(error)))


def _make_ready(bench: _Bench, variants: Sequence[Variant]) -> list[tuple[Variant, Any]]:
    """Exports and overheads of the originals, before loading, each in a process of its own."""
    ready = []
    for variant in variants:
        bench.say(f"making ready: {variant.key}")
        try:
            ready.append((variant, in_process(variant.make_ready)))
        except ComosvcError as error:
            bench.fail(variant.key, error)
    return ready


def _seat(
    bench: _Bench, waiting: list[tuple[Variant, Any]], threads: int, stack: ExitStack
) -> dict[VariantKey, Session]:
    """Load systems from the front of `waiting` as far as memory permits, and one in any case.

    On a GPU one alone: engines never return its memory, and others would run out of it.
    """
    sessions: dict[VariantKey, Session] = {}
    work_mb = WORK_MB_PER_S * max(bench.options.batches) * max(bench.options.lengths_s)
    left_mb = MEMORY_SHARE * psutil.virtual_memory().available / 1e6
    alone = bench.options.device == "cuda"
    while waiting and (not sessions or (not alone and left_mb > work_mb)):
        variant, made = waiting.pop(0)
        key = variant.key
        bench.say(f"loading {key}")
        try:
            session = stack.enter_context(closing(bench.open(str(key), partial(variant.open, made), threads)))
        except ComosvcError as error:
            bench.fail(key, error)
            bench.ended[key, threads] = ""
            continue
        sessions[key] = session
        facts = {**asdict(key), **vars(session.loaded)}
        bench.systems.append(SystemFacts(**facts, provider=variant.provider, threads=threads))
        left_mb -= work_mb + (session.loaded.loaded_mb or 0.0)
    return sessions


def _measure_cell(bench: _Bench, sessions: dict[VariantKey, Session], cell: Cell) -> None:
    """All systems at one size. One that fails loses its session."""
    threads, batch, seconds = cell
    where = _in_words(cell)
    takers = {}
    bench.over.update((key, cell) for key in sessions)

    def failed(key: VariantKey, error: ComosvcError) -> None:
        bench.fail(key, error, cell)
        bench.ended[key, threads] = f"not tried: it failed at {where}"
        del sessions[key]

    for key, session in list(sessions.items()):
        bench.say(f"{where}: warming up {key}")
        try:
            session.prepare(seconds, batch)
        except ComosvcError as error:
            failed(key, error)
            continue
        takers[key] = _told(bench, f"{where}: {key}", session)
    watch = Watch()
    turns = in_turns(takers, bench.options.rounds, failed)
    found = asdict(watch.stop())
    bench.noise.append(CellNoise(sitting=bench.sitting, threads=threads, batch=batch, seconds=seconds, **found))
    for key, taken in turns.items():
        try:
            bench.rows += _rows(bench, key, sessions[key], taken, cell)
        except ComosvcError as error:
            failed(key, error)


def _told(bench: _Bench, where: str, session: Session) -> Callable[[], Turn]:
    def turn() -> Turn:
        bench.say(where)
        return session.turn()

    return turn


def _rows(bench: _Bench, key: VariantKey, session: Session, turns: list[Turn], cell: Cell) -> list[Timing]:
    """The whole, which is the sum of its stages in each repetition, and each stage."""
    threads, batch, seconds = cell
    gflop, peak = session.loaded.gflop_per_s, session.peak()
    gbyte = {
        stage: 1e-3 * turns[0][stage].evaluations * (mb + session.loaded.ends_mb_per_s[stage] * seconds * batch)
        for stage, mb in session.loaded.weights_mb.items()
        if stage in turns[0]
    }

    def row(stage: str, work: float | None, moved: float | None, evaluations: int, timed: int) -> Timing:
        samples = [[turn[stage]] if stage != TOTAL else list(turn.values()) for turn in turns]
        return Timing(
            **asdict(key),
            threads=threads,
            batch=batch,
            seconds=seconds,
            stage=stage,
            wall_s=tuple(sum(sample.wall_s for sample in parts) for parts in samples),
            cpu_s=tuple(sum(sample.cpu_s for sample in parts) for parts in samples),
            evaluations=evaluations,
            timed=timed,
            gflop=None if work is None else work * seconds * batch,
            gbyte=moved,
            sitting=bench.sitting,
        )

    sampler = max(turns[0].values(), key=lambda sample: sample.evaluations)
    work, moved = (sum(found.values()) if found else None for found in (gflop, gbyte))
    whole = row(TOTAL, work, moved, sampler.evaluations, sampler.timed)
    rows = [replace(whole, peak_mb=peak.resident_mb, peak_device_mb=peak.device_mb)]
    for stage, sample in turns[0].items():
        rows.append(row(stage, gflop.get(stage), gbyte.get(stage), sample.evaluations, sample.timed))
    return rows


def _check_extrapolation(bench: _Bench, sessions: Mapping[VariantKey, Session], threads: int) -> None:
    """Every system of many evaluations once to its end at 10 s, beside a scaled pass of the same minute."""
    many = {row.key for row in bench.rows if row.extrapolated and row.threads == threads}
    for key, session in sessions.items():
        if key not in many:
            continue
        bench.say(f"all evaluations of {key} at {CHECK_SECONDS:g} s")
        try:
            bench.checks.append(_check(key, session, threads))
        except ComosvcError as error:
            bench.fail(key, error, (threads, 1, CHECK_SECONDS))


def _in_words(cell: Cell) -> str:
    threads, batch, seconds = cell
    return f"{seconds:g} s, batch {batch}, {threads} thread(s)"


def _not_measured(
    key: VariantKey, why: str, options: RtfOptions, device: str | None, cell: Cell | None = None
) -> NotMeasured:
    """At one size, or at all of them; `device` None: no command measures it."""
    what = f"{key} at {_in_words(cell)}" if cell else str(key)
    if device is None:
        return NotMeasured(what=what, why=why)
    words = ["comosvc-bench", "rtf", "--systems", key.system, "--engines", key.engine, "--precision", key.precision]
    sizes = [(value,) for value in cell] if cell else [options.threads, options.batches, options.lengths_s]
    for option, values in zip(("--threads", "--batch", "--lengths"), sizes, strict=True):
        words += [option, ",".join(f"{value:g}" for value in values)]
    words += [] if key.singers is None else ["--singers", str(key.singers)]
    return NotMeasured(what=what, why=why, command=shlex.join([*words, "--device", device]))


def _check(key: VariantKey, session: Session, threads: int) -> FullCheck:
    session.prepare(CHECK_SECONDS, 1)
    scaled = session.turn()
    full = session.turn(max(sample.evaluations for sample in scaled.values()))
    return FullCheck(
        system=key.system,
        engine=key.engine,
        precision=key.precision,
        threads=threads,
        seconds=CHECK_SECONDS,
        full_s=sum(sample.wall_s for sample in full.values()),
        extrapolated_s=sum(sample.wall_s for sample in scaled.values()),
        within=CHECK_WITHIN,
    )
