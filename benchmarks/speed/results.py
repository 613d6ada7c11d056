"""What a speed benchmark found, as data and as JSON. What nobody measured is None, never a guess."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ...runtime.storage import write_whole
from ..report import ResultError, current_commit, installed_versions
from .ceilings import Ceilings
from .chain import VariantKey
from .timing import NOISY_SPREAD, Disturbance, machine_facts, median, median_error, p95, p99, spread

FORMAT_VERSION = 1
KIND = "rtf"
KINDS = {KIND: "rtf", "latency": "latency", "systems-quality": "systems-quality", "quality": "quality or train"}
"""Kinds of results, and the commands of comosvc-bench that write them."""
TOTAL = "total"
"""The stage of a row that is the whole chain."""


class OtherKindError(ResultError):
    """A JSON file that is no result of the kinds that are read here."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """A stage, or the whole, of a system at one length, batch and number of threads. Seconds of each repetition."""

    system: str
    engine: str
    precision: str
    singers: int | None = None
    threads: int
    batch: int
    seconds: float
    """Of each clip."""
    stage: str
    wall_s: tuple[float, ...]
    cpu_s: tuple[float, ...]
    evaluations: int = 1
    timed: int = 1
    """Evaluations that were computed; where fewer than `evaluations`, seconds are scaled."""
    gflop: float | None = None
    """Work of all clips."""
    ceiling_gflop_s: float | None = None
    """What this machine does at most in this precision."""
    gbyte: float | None = None
    """What all clips move at the least: `traffic`."""
    ceiling_gb_s: float | None = None
    """What this machine copies at most."""
    sitting: int = 0
    """Systems that did not fit into memory together were measured one sitting after another; turns were taken within
    each.
    """
    peak_mb: float | None = None
    """Of the process, in the row of the whole chain."""
    peak_device_mb: float | None = None

    @property
    def key(self) -> VariantKey:
        return VariantKey(self.system, self.engine, self.precision, self.singers)

    @property
    def cell(self) -> tuple[int, int, float]:
        """Threads, batch, seconds."""
        return self.threads, self.batch, self.seconds

    @property
    def median_s(self) -> float:
        return median(self.wall_s)

    @property
    def p95_s(self) -> float:
        return p95(self.wall_s)

    @property
    def p99_s(self) -> float:
        return p99(self.wall_s)

    @property
    def rtf(self) -> float:
        """Seconds of work per second of audio."""
        return self.median_s / (self.seconds * self.batch)

    @property
    def rtf_p95(self) -> float:
        return self.p95_s / (self.seconds * self.batch)

    @property
    def cpu_rtf(self) -> float:
        """Processor seconds per second of audio."""
        return median(self.cpu_s) / (self.seconds * self.batch)

    @property
    def extrapolated(self) -> bool:
        return self.timed < self.evaluations

    @property
    def noise(self) -> float | None:
        """`timing.median_error` of the wall times."""
        return median_error(self.wall_s)

    @property
    def is_noisy(self) -> bool:
        found = spread(self.wall_s)
        return found is None or found > NOISY_SPREAD

    @property
    def gflop_s(self) -> float | None:
        return None if self.gflop is None else self.gflop / self.median_s

    @property
    def ceiling_share(self) -> float | None:
        found = self.gflop_s
        return None if found is None or self.ceiling_gflop_s is None else found / self.ceiling_gflop_s

    @property
    def gb_s(self) -> float | None:
        """At least; see `gbyte`."""
        return None if self.gbyte is None else self.gbyte / self.median_s

    @property
    def bandwidth_share(self) -> float | None:
        found = self.gb_s
        return None if found is None or self.ceiling_gb_s is None else found / self.ceiling_gb_s

    def derived(self) -> dict[str, Any]:
        """What readers of the JSON need not compute; `wall_s` and `cpu_s` decide."""
        return {
            "repetitions": len(self.wall_s),
            "median_s": self.median_s,
            "p95_s": self.p95_s,
            "p99_s": self.p99_s,
            "min_s": min(self.wall_s),
            "cpu_median_s": median(self.cpu_s),
            "rtf": self.rtf,
            "spread": spread(self.wall_s),
            "noisy": self.is_noisy,
            "extrapolated": self.extrapolated,
            "gflop_s": self.gflop_s,
            "ceiling_share": self.ceiling_share,
            "gb_s": self.gb_s,
            "bandwidth_share": self.bandwidth_share,
        }


@dataclass(frozen=True, kw_only=True)
class SystemFacts:
    """A system in an engine, loaded for some number of threads: what it is, and what came before the first pass."""

    system: str
    engine: str
    precision: str
    singers: int | None = None
    provider: str | None = None
    threads: int
    title: str
    sample_rate: int
    parameters: dict[str, int] = field(default_factory=dict)
    gflop_per_s: dict[str, float] = field(default_factory=dict)
    weights_mb: dict[str, float] = field(default_factory=dict)
    ends_mb_per_s: dict[str, float] = field(default_factory=dict)
    build_s: float | None = None
    export_s: float | None = None
    load_s: float | None = None
    overhead_s: float | None = None
    """What the original does on every call besides computing. No part of any row."""
    libraries_mb: float | None = None
    """Resident size of the process before the weights came."""
    loaded_mb: float | None = None
    engine_build_s: float | None = None
    engine_mb: float | None = None
    fp32_graphs: tuple[str, ...] = ()

    @property
    def key(self) -> VariantKey:
        return VariantKey(self.system, self.engine, self.precision, self.singers)


@dataclass(frozen=True, kw_only=True)
class CellNoise:
    """What the machine did besides while a cell was measured."""

    sitting: int = 0
    threads: int
    batch: int
    seconds: float
    others_cores: float
    load_average: float | None

    @property
    def disturbance(self) -> Disturbance:
        return Disturbance(self.others_cores, self.load_average)


@dataclass(frozen=True, kw_only=True)
class FullCheck:
    """An extrapolated system run once to its end."""

    system: str
    engine: str
    precision: str
    threads: int
    seconds: float
    full_s: float
    extrapolated_s: float
    within: float
    """The largest share that the two may differ by."""

    @property
    def error(self) -> float:
        return self.extrapolated_s / self.full_s - 1.0

    @property
    def ok(self) -> bool:
        return abs(self.error) <= self.within


@dataclass(frozen=True, kw_only=True)
class NotMeasured:
    """A combination that was asked for, why it has no row, and what gives it one, if anything does."""

    what: str
    why: str
    command: str = ""


@dataclass(frozen=True, kw_only=True)
class SpeedReport:
    """A run of `comosvc-bench rtf`."""

    command: str
    options: dict[str, Any]
    systems: tuple[SystemFacts, ...] = ()
    ceilings: tuple[Ceilings, ...] = ()
    rows: tuple[Timing, ...] = ()
    noise: tuple[CellNoise, ...] = ()
    full_checks: tuple[FullCheck, ...] = ()
    not_measured: tuple[NotMeasured, ...] = ()
    machine: dict[str, Any] = field(default_factory=machine_facts)
    versions: dict[str, str] = field(default_factory=installed_versions)
    commit: str | None = field(default_factory=current_commit)

    def totals(self, threads: int | None = None, batch: int | None = None) -> list[Timing]:
        """The rows of whole chains."""
        return [
            row
            for row in self.rows
            if row.stage == TOTAL and threads in (None, row.threads) and batch in (None, row.batch)
        ]


_PARTS = {
    "systems": SystemFacts,
    "ceilings": Ceilings,
    "rows": Timing,
    "noise": CellNoise,
    "full_checks": FullCheck,
    "not_measured": NotMeasured,
}


def check_writable(path: Path | None) -> None:
    """Before hours of measuring. Raises `ResultError` where results cannot be written to `path`."""
    if path is None:
        return
    is_new = not path.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("ab").close()
        if is_new:
            path.unlink()
    except OSError as error:
        raise ResultError(
            f"--json {path} cannot be written: {error}\nhint: name a file in a folder of yours"
        ) from error


def save_speed(report: SpeedReport, path: Path) -> None:
    """Write a report, whole or not at all; `load_speed` reads it back."""
    body = {"format_version": FORMAT_VERSION, "kind": KIND, **asdict(report)}
    body["rows"] = [{**asdict(row), **row.derived()} for row in report.rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, (json.dumps(body, indent=1, ensure_ascii=False) + "\n").encode())


def read_results(path: Path) -> dict[str, Any]:
    """The JSON of any benchmark of `KINDS`, its version checked. Raises `ResultError`."""
    try:
        body = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ResultError(f"{path} is no result of comosvc-bench: it cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ResultError(f"{path} is no result of comosvc-bench: it is not JSON: {error}") from error
    body = body if isinstance(body, dict) else {}
    if "kind" not in body and {"rows", "voice"} <= body.keys():
        body["kind"] = "quality"  # such tables carry no kind
    kind = body.get("kind", body.get("what", "unknown"))
    if kind not in KINDS:
        raise OtherKindError(
            f"{path} is of another kind ({kind}), no result of comosvc-bench {', '.join(KINDS.values())}"
        )
    if (version := body.get("format_version")) != FORMAT_VERSION:
        raise ResultError(
            f"{path} ({kind}) has format_version {version}; this reads {FORMAT_VERSION}\nhint: measure it again"
        )
    return body


def load_speed(path: Path) -> SpeedReport:
    """Read what `save_speed` wrote. Raises `ResultError`."""
    body = read_results(path)
    if body["kind"] != KIND:
        raise ResultError(f"{path} is of kind {body['kind']!r}; a file of comosvc-bench rtf is wanted")
    try:
        parts: dict[str, Any] = {name: tuple(_revived(kind, body[name])) for name, kind in _PARTS.items()}
        rest: dict[str, Any] = {f.name: body[f.name] for f in fields(SpeedReport) if f.name not in _PARTS}
        return SpeedReport(**rest, **parts)
    except (KeyError, TypeError) as error:
        raise ResultError(f"{path} is damaged: {type(error).__name__}: {error}") from error


def _revived(kind: type, entries: Sequence[Mapping[str, Any]]) -> Iterable[Any]:
    """Each entry as `kind`, derived values left out and lists as tuples."""
    names = {f.name for f in fields(kind)}
    for entry in entries:
        yield kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in entry.items() if k in names})
