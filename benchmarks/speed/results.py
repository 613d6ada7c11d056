"""Records of `comosvc-bench rtf`. A figure that was not measured is None."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from ..report import Result
from .timing import BUSY_CORES, NOISY_SPREAD, median, median_error, p95, p99, spread

TOTAL = "total"
"""The stage of a row that is the whole chain."""


@dataclass(frozen=True)
class VariantKey:
    """A system as it is run. `singers`: a cast of another size than its own."""

    system: str
    engine: str
    precision: str
    singers: int | None = None

    def __str__(self) -> str:
        cast = "" if self.singers is None else f", {self.singers} singers"
        return f"{self.system} ({self.engine} {self.precision}{cast})"


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """The best of some repetitions: GFLOP/s of square matrix products, GB/s of a copy, read and written."""

    threads: int
    device: str
    fp32_torch_gflop_s: float
    fp32_onnx_gflop_s: float | None = None
    """On the CPU: its kernels and torch's are not equally fast on every processor (MKL on AMD's)."""
    bf16_torch_gflop_s: float | None = None
    """None for devices without bf16 units, where torch emulates bf16 at a hundredth of the speed."""
    fp16_torch_gflop_s: float | None = None
    """None for devices without fp16 units."""
    copy_gb_s: float
    fp32_matmul_precision: str = "highest"
    """torch's setting; anything else lets a GPU use TF32."""
    left_out: tuple[str, ...] = ()
    """Precisions without a ceiling, each with the reason."""

    def gflop_s(self, precision: str) -> float | None:
        """The most of any engine in a precision; None where it was not measured."""
        if precision in ("bf16", "fp16"):
            return self.bf16_torch_gflop_s if precision == "bf16" else self.fp16_torch_gflop_s
        return max(self.fp32_torch_gflop_s, self.fp32_onnx_gflop_s or 0.0) if precision == "fp32" else None


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
    gbyte: float | None = None
    """Least traffic of all clips: `engines.Traffic`."""
    ceiling_gb_s: float | None = None
    sitting: int = 0
    """Systems that did not fit into memory together were measured in turns within one sitting after another."""
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
    def rtf(self) -> float:
        """Seconds of work per second of audio."""
        return self.median_s / (self.seconds * self.batch)

    @property
    def rtf_p95(self) -> float:
        return p95(self.wall_s) / (self.seconds * self.batch)

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
        return _share(self.gflop_s, self.ceiling_gflop_s)

    @property
    def gb_s(self) -> float | None:
        """At least; see `gbyte`."""
        return None if self.gbyte is None else self.gbyte / self.median_s

    @property
    def bandwidth_share(self) -> float | None:
        return _share(self.gb_s, self.ceiling_gb_s)

    def derived(self) -> dict[str, Any]:
        """Figures that readers of the JSON need not compute."""
        return {
            "repetitions": len(self.wall_s),
            "median_s": self.median_s,
            "p95_s": p95(self.wall_s),
            "p99_s": p99(self.wall_s),
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


def _share(rate: float | None, ceiling: float | None) -> float | None:
    return None if rate is None or ceiling is None else rate / ceiling


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A loaded system: its sizes, and the cost of loading it."""

    title: str
    sample_rate: int
    parameters: dict[str, int] = field(default_factory=dict)
    gflop_per_s: dict[str, float] = field(default_factory=dict)
    """Of the stages for which it is known."""
    weights_mb: dict[str, float] = field(default_factory=dict)
    ends_mb_per_s: dict[str, float] = field(default_factory=dict)
    """`engines.Traffic`."""
    build_s: float | None = None
    """Making the networks with random weights."""
    export_s: float | None = None
    """Tracing to ONNX, when that was done."""
    load_s: float | None = None
    """From weights in memory, or files, to an engine that is ready."""
    overhead_s: float | None = None
    """Cost of a call of the original besides computing (`SpeedSystem.overhead`), the best of some. In no row."""
    libraries_mb: float | None = None
    """Resident size of the process before the weights came: interpreter and libraries."""
    loaded_mb: float | None = None
    """Resident size after loading."""
    engine_build_s: float | None = None
    """Building TensorRT's engines, whenever that was done."""
    engine_mb: float | None = None
    fp32_graphs: tuple[str, ...] = ()
    """Graphs of a voice that are fp32 in this precision too: they missed their budget, or gain nothing."""


@dataclass(frozen=True, kw_only=True)
class SystemFacts(Loaded):
    """A system in an engine, loaded for some number of threads."""

    system: str
    engine: str
    precision: str
    singers: int | None = None
    provider: str | None = None
    threads: int

    @property
    def key(self) -> VariantKey:
        return VariantKey(self.system, self.engine, self.precision, self.singers)


@dataclass(frozen=True, kw_only=True)
class CellNoise:
    """Load by other processes while a cell was measured."""

    sitting: int = 0
    threads: int
    batch: int
    seconds: float
    others_cores: float
    load_average: float | None

    @property
    def is_heavy(self) -> bool:
        return self.others_cores > BUSY_CORES


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
    """A combination that was asked for, why it has no row, and the command that measures it, if any does."""

    what: str
    why: str
    command: str = ""


@dataclass(frozen=True, kw_only=True)
class SpeedReport(Result):
    """A run of `comosvc-bench rtf`."""

    kind: ClassVar[str] = "rtf"
    options: dict[str, Any]
    rows: tuple[Timing, ...] = ()
    systems: tuple[SystemFacts, ...] = ()
    ceilings: tuple[Ceilings, ...] = ()
    noise: tuple[CellNoise, ...] = ()
    full_checks: tuple[FullCheck, ...] = ()
    not_measured: tuple[NotMeasured, ...] = ()

    def totals(self, threads: int | None = None, batch: int | None = None) -> list[Timing]:
        """The rows of whole chains."""
        return [
            row
            for row in self.rows
            if row.stage == TOTAL and threads in (None, row.threads) and batch in (None, row.batch)
        ]

    @property
    def note(self) -> str:
        disturbed = sum(cell.is_heavy for cell in self.noise)
        words = f" {disturbed} of {len(self.noise)} sizes were disturbed by other processes." if disturbed else ""
        return f"{self.provenance}{words}"
