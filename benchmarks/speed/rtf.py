"""`comosvc-bench rtf`: every system in every engine at every size, in turns."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from ...runtime.errors import ComosvcError
from .ceilings import Ceilings, measure_ceilings
from .machine import machine_facts
from .noise import Watch
from .options import RtfOptions
from .results import TOTAL, CellNoise, FullCheck, NotMeasured, SpeedReport, SystemFacts, Timing
from .timing import Turn, in_turns
from .variants import Skipped, Variant, VariantKey
from .worker import Opener, ProcessSession, Session, in_process

Say = Callable[[str], None]
OpenSession = Callable[[str, Opener, int], Session]
CHECK_SECONDS, CHECK_WITHIN = 10.0, 0.05


@dataclass
class _Bench:
    """What has been found so far, and how to find more."""

    options: RtfOptions
    say: Say
    open: OpenSession
    systems: list[SystemFacts] = field(default_factory=list)
    ceilings: list[Ceilings] = field(default_factory=list)
    rows: list[Timing] = field(default_factory=list)
    noise: list[CellNoise] = field(default_factory=list)
    checks: list[FullCheck] = field(default_factory=list)
    failed: list[NotMeasured] = field(default_factory=list)

    def fail(self, what: object, error: ComosvcError) -> None:
        self.failed.append(NotMeasured(what=str(what), why=str(error)))
        self.say(f"{what}: {error}")


def measure_rtf(
    variants: Sequence[Variant],
    skipped: Sequence[Skipped],
    options: RtfOptions,
    command: str,
    say: Say = lambda _: None,
    open_session: OpenSession = ProcessSession,
) -> SpeedReport:
    """Measure. A system that fails is noted and left out of what follows; raises only if none is left."""
    bench = _Bench(options, say, open_session)
    ready = _make_ready(bench, variants)
    for threads in options.threads:
        say(f"ceilings of this machine, {threads} thread(s)")
        bench.ceilings.append(in_process(measure_ceilings, threads, options.device))
        with ExitStack() as stack:
            sessions = _load(bench, ready, threads, stack)
            for batch in options.batches:
                for seconds in options.lengths_s:
                    _measure_cell(bench, sessions, threads, batch, seconds)
            if options.full:
                _check_extrapolation(bench, sessions, threads)
    if not bench.rows:
        raise ComosvcError("nothing could be measured\n" + "\n".join(f"{f.what}: {f.why}" for f in bench.failed))
    return SpeedReport(
        command=command,
        options=asdict(options),
        machine=machine_facts(options.device),
        systems=tuple(bench.systems),
        ceilings=tuple(bench.ceilings),
        rows=tuple(bench.rows),
        noise=tuple(bench.noise),
        full_checks=tuple(bench.checks),
        not_measured=(*(NotMeasured(what=str(s.key), why=s.why) for s in skipped), *bench.failed),
    )


def _make_ready(bench: _Bench, variants: Sequence[Variant]) -> dict[VariantKey, tuple[Variant, Any]]:
    """Exports, each in a process of its own."""
    ready = {}
    for variant in variants:
        bench.say(f"making ready: {variant.key}")
        try:
            made = in_process(variant.make_ready)
        except ComosvcError as error:
            bench.fail(variant.key, error)
            continue
        ready[variant.key] = variant, made
    return ready


def _load(
    bench: _Bench, ready: Mapping[VariantKey, tuple[Variant, Any]], threads: int, stack: ExitStack
) -> dict[VariantKey, Session]:
    sessions: dict[VariantKey, Session] = {}
    for key, (variant, made) in ready.items():
        bench.say(f"loading {key}")
        try:
            session = stack.enter_context(closing(bench.open(str(key), partial(variant.open, made), threads)))
        except ComosvcError as error:
            bench.fail(key, error)
            continue
        sessions[key] = session
        loaded = session.loaded
        bench.systems.append(
            SystemFacts(
                **asdict(key),
                provider=variant.provider,
                threads=threads,
                title=loaded.title,
                sample_rate=loaded.sample_rate,
                parameters=dict(loaded.parameters),
                gflop_per_s=dict(loaded.gflop_per_s),
                build_s=loaded.build_s,
                export_s=loaded.export_s,
                load_s=loaded.load_s,
                overhead_s=loaded.overhead_s,
                libraries_mb=loaded.libraries_mb,
            )
        )
    return sessions


def _measure_cell(bench: _Bench, sessions: dict[VariantKey, Session], threads: int, batch: int, seconds: float) -> None:
    """All systems at one size. One that fails loses its session."""
    where = f"{seconds:g} s, batch {batch}, {threads} thread(s)"
    takers = {}

    def failed(key: VariantKey, error: ComosvcError) -> None:
        bench.fail(f"{key} at {where}", error)
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
    found = watch.stop()
    bench.noise.append(CellNoise(threads=threads, batch=batch, seconds=seconds, **asdict(found)))
    for key, taken in turns.items():
        bench.rows += _rows(bench, key, sessions[key], taken, (threads, batch, seconds))


def _told(bench: _Bench, where: str, session: Session) -> Callable[[], Turn]:
    def turn() -> Turn:
        bench.say(where)
        return session.turn()

    return turn


def _rows(
    bench: _Bench,
    key: VariantKey,
    session: Session,
    turns: list[Turn],
    cell: tuple[int, int, float],
) -> list[Timing]:
    """The whole, which is the sum of its stages in each repetition, and each stage."""
    threads, batch, seconds = cell
    gflop = session.loaded.gflop_per_s
    peak = session.peak()
    ceiling = _ceiling(bench.ceilings[-1], key.precision)

    def row(stage: str, work: float | None, **rest: Any) -> Timing:
        samples = [[turn[stage]] if stage != TOTAL else list(turn.values()) for turn in turns]
        return Timing(
            **asdict(key),
            threads=threads,
            batch=batch,
            seconds=seconds,
            stage=stage,
            wall_s=tuple(sum(s.wall_s for s in parts) for parts in samples),
            cpu_s=tuple(sum(s.cpu_s for s in parts) for parts in samples),
            gflop=None if work is None else work * seconds * batch,
            ceiling_gflop_s=ceiling,
            **rest,
        )

    longest = max(turns[0].values(), key=lambda sample: sample.evaluations)
    sampler = {"evaluations": longest.evaluations, "timed": longest.timed}
    memory = {"peak_mb": peak.resident_mb, "peak_device_mb": peak.device_mb}
    rows = [row(TOTAL, sum(gflop.values()) if gflop else None, **sampler, **memory)]
    for stage, sample in turns[0].items():
        rows.append(row(stage, gflop.get(stage), evaluations=sample.evaluations, timed=sample.timed))
    return rows


def _ceiling(ceilings: Ceilings, precision: str) -> float | None:
    return {"fp32": ceilings.fp32_gemm_gflop_s, "bf16": ceilings.bf16_gemm_gflop_s}.get(precision)


def _check_extrapolation(bench: _Bench, sessions: Mapping[VariantKey, Session], threads: int) -> None:
    """Every system of many evaluations once to its end at 10 s, beside a scaled pass of the same minute."""
    many = {row.key for row in bench.rows if row.extrapolated and row.threads == threads}
    for key in sessions:
        if key not in many:
            continue
        bench.say(f"all evaluations of {key} at {CHECK_SECONDS:g} s")
        try:
            bench.checks.append(_check(key, sessions[key], threads))
        except ComosvcError as error:
            bench.fail(f"the full run of {key}", error)


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
