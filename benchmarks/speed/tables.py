"""Tables of a run of `comosvc-bench rtf`."""

from collections.abc import Iterable

from ..baselines.steps import STAGES
from ..report import Table
from .compare import Compared
from .paper import find_scalings, paper_table
from .results import TOTAL, SpeedReport, Timing, VariantKey
from .timing import BUSY_CORES, p95, p99

OTHER = "other"
"""The stage of `convert` besides graphs: resampling, loudness, the source, cutting and joining; files of a batch."""
REFERENCE = VariantKey("comosvc-authors", "torch", "fp32")
STAGES_SECONDS = 10.0
"""Stages are shown at this length, or at the nearest that was measured."""
_LEGEND = "* timed in part and scaled. ~ repetitions scatter by more than 10 %, or are too few to know."


def all_tables(report: SpeedReport) -> list[Table]:
    """Every table of a run, those without a row left out."""
    pairs = sorted({(row.threads, row.batch) for row in report.totals()})
    lengths = {(threads, batch): shown_length(report, threads, batch) for threads, batch in pairs}
    tables = [
        *(length_table(report, threads, batch) for threads, batch in pairs),
        *(percentile_table(report, threads, batch) for threads, batch in pairs),
        *(stage_table(report, (threads, batch, seconds)) for (threads, batch), seconds in lengths.items()),
        *(rate_table(report, (threads, batch, seconds)) for (threads, batch), seconds in lengths.items()),
        *paper_tables(report),
        loading_table(report),
        engine_table(report),
        scaling_table(report),
        ceilings_table(report),
        checks_table(report),
        noise_table(report),
        not_measured_table(report),
    ]
    return [table for table in tables if table.rows]


def paper_tables(report: SpeedReport) -> list[Table]:
    """Table 3 beside each engine, precision and number of threads that was measured."""
    kinds = dict.fromkeys((row.threads, row.engine, row.precision) for row in report.totals(batch=1))
    tables = [paper_table(report, e, p, (t, 1, shown_length(report, t, 1))) for t, e, p in kinds]
    return [table for table in tables if table is not None]


def shown_length(report: SpeedReport, threads: int, batch: int) -> float:
    """The measured length nearest to `STAGES_SECONDS`."""
    return min(
        (row.seconds for row in report.totals(threads, batch)), key=lambda seconds: abs(seconds - STAGES_SECONDS)
    )


def length_table(report: SpeedReport, threads: int, batch: int) -> Table:
    """The whole chain against the length of the clip."""
    rows = report.totals(threads, batch)
    lengths = sorted({row.seconds for row in rows})
    found = {(row.key, row.seconds): row for row in rows}
    table = []
    for key in dict.fromkeys(row.key for row in rows):
        cells = [_rtf(found.get((key, seconds))) for seconds in lengths]
        table.append((str(key), *cells, _figure(report_overhead(report, key, threads), " s")))
    return Table(
        title=f"whole chain, RTF: {_device(report)}, batch {batch}, {threads} thread(s)",
        heads=("system", *(f"{seconds:g} s" for seconds in lengths), "and on each call, as shipped"),
        rows=tuple(table),
        note=f"Seconds of work per second of audio: median (95th percentile). {_LEGEND} Ours is all of convert(), with "
        "resampling, loudness and the sine source, in a batch convert_many() with its files; of others, the networks "
        "and F0.",
    )


def summary_table(report: SpeedReport) -> Table:
    """The whole chain of one clip at one length, threads side by side, and how many times faster than the authors'."""
    threads = sorted({row.threads for row in report.totals(batch=1)})
    found = {(row.key, row.threads, row.seconds): row for row in report.totals(batch=1)}
    lengths = {n: shown_length(report, n, 1) for n in threads}
    table = []
    for key in dict.fromkeys(row.key for row in report.totals(batch=1)):
        cells: list[str] = []
        for n in threads:
            row, base = (found.get((which, n, lengths[n])) for which in (key, REFERENCE))
            cells += [_rtf(row), "" if row is None or base is None else f"{base.rtf / row.rtf:.2g} ×"]
        table.append((str(key), *cells))
    return Table(
        title=f"whole chain, RTF, {' and '.join(f'{s:g}' for s in sorted(set(lengths.values())))} s: {_device(report)}",
        heads=("system", *(head for n in threads for head in (f"{n} thread" if n == 1 else f"{n} threads", "faster"))),
        rows=tuple(table),
        note=f"Seconds of work per second of audio: median (95th percentile). {_LEGEND} Faster: than {REFERENCE}, the "
        "authors' arithmetic, in the same run.",
    )


def percentile_table(report: SpeedReport, threads: int, batch: int) -> Table:
    """Percentiles of the whole chain, and the GPU's memory."""
    rows = [
        (
            *(str(row.key), f"{row.seconds:g}", str(len(row.wall_s))),
            *(f"{1e3 * seconds:.4g}" for seconds in (row.median_s, p95(row.wall_s), p99(row.wall_s))),
            _whole(row.peak_device_mb),
        )
        for row in report.totals(threads, batch)
    ]
    return Table(
        title=f"whole chain, ms: {_device(report)}, batch {batch}, {threads} thread(s)",
        heads=("system", "clip s", "n", "p50", "p95", "p99", "GPU MB"),
        rows=tuple(rows),
        note="Percentiles of n repetitions; p99 of fewer than a hundred lies between the two largest. GPU MB: torch's "
        "own peak; what more is in use than before a voice came. Empty on a CPU: comosvc-bench rtf --preset gpu.",
    )


def report_overhead(report: SpeedReport, key: VariantKey, threads: int) -> float | None:
    """Seconds of a call of the original besides computing."""
    return next((f.overhead_s for f in report.systems if f.key == key and f.threads == threads), None)


def stage_table(report: SpeedReport, cell: tuple[int, int, float]) -> Table:
    """Each stage at one size, with its share of this machine's ceiling."""
    threads, batch, seconds = cell
    rows = [row for row in report.rows if row.cell == cell]
    stages = stages_in_order(row.stage for row in rows)
    found = {(row.key, row.stage): row for row in rows}
    table = []
    for key in dict.fromkeys(row.key for row in rows):
        whole = found[key, TOTAL]
        cells = [_stage(found.get((key, stage))) for stage in stages]
        table.append((str(key), *cells, f"{whole.cpu_rtf:.3g}", _figure(whole.gflop_s), _share(whole.ceiling_share)))
    return Table(
        title=f"stages, RTF: {_device(report)}, {seconds:g} s, batch {batch}, {threads} thread(s)",
        heads=("system", *stages, "processor s per s", "GFLOP/s", "of the ceiling"),
        rows=tuple(table),
        note=f"In brackets the share of the ceiling; more than 100 %: the ceiling itself was disturbed. {_LEGEND}",
    )


def rate_table(report: SpeedReport, cell: tuple[int, int, float]) -> Table:
    """Rates of each stage beside the ceilings of this machine."""
    threads, batch, seconds = cell
    rows = [row for row in report.rows if row.cell == cell and (row.gflop is not None or row.gbyte is not None)]
    return Table(
        title=f"rates by stage: {_device(report)}, {seconds:g} s, batch {batch}, {threads} thread(s)",
        heads=("system", "stage", "ms", "TFLOP/s", "of most", "GB/s", "of most"),
        rows=tuple(
            (
                *(str(row.key), row.stage, f"{1e3 * row.median_s:.4g}"),
                *(_figure(None if row.gflop_s is None else 1e-3 * row.gflop_s), _share(row.ceiling_share)),
                *(_figure(row.gb_s), _share(row.bandwidth_share)),
            )
            for row in rows
        ),
        note="Of most: of the matrix products and of the copy under what this machine does at most. GB/s at least: "
        "weights once in each evaluation, inputs and outputs; what the layers hand on is not counted.",
    )


def stages_in_order(stages: Iterable[str]) -> list[str]:
    """Those of `stages` each once, in the order of the chain; the total last."""
    there = dict.fromkeys(stages)
    unknown = [stage for stage in there if stage not in (*STAGES, OTHER, TOTAL)]
    return [stage for stage in (*STAGES, *unknown, OTHER, TOTAL) if stage in there]


def loading_table(report: SpeedReport) -> Table:
    """Times before the first pass, and memory."""
    peaks: dict[tuple[VariantKey, int], list[float]] = {}
    for row in report.totals():
        if row.peak_mb is not None:
            peaks.setdefault((row.key, row.threads), []).append(row.peak_mb)
    rows = []
    for facts in report.systems:
        peak = max(peaks.get((facts.key, facts.threads), []), default=None)
        own = None if peak is None or facts.libraries_mb is None else peak - facts.libraries_mb
        weights = sum(facts.parameters.values()) / 1e6 if facts.parameters else None
        times = (_figure(seconds) for seconds in (facts.build_s, facts.export_s, facts.load_s))
        gflop = sum(facts.gflop_per_s.values()) if facts.gflop_per_s else None
        sizes = (_figure(weights), _figure(gflop), *times, _whole(peak), _whole(own))
        in_fp32 = f"; in fp32: {', '.join(facts.fp32_graphs)}" if facts.fp32_graphs else ""
        rows.append((str(facts.key), str(facts.threads), *sizes, f"{facts.title}{in_fp32}"))
    return Table(
        title="before the first pass, and memory",
        heads=(
            "system",
            "threads",
            "M parameters",
            "GFLOP per audio s",
            "build s",
            "export s",
            "load s",
            "peak MB",
            "… above libraries",
            "what it is",
        ),
        rows=tuple(rows),
        note="Each in a process of its own. GFLOP: of all evaluations of the networks, 1 MAC = 2 FLOP. "
        "Peak: the most memory of the process over all sizes; above libraries: "
        "without what it had before the weights came. Export: when it was done, it is kept.",
    )


def engine_table(report: SpeedReport) -> Table:
    """TensorRT's engines."""
    built = [facts for facts in report.systems if facts.engine == "tensorrt"]
    return Table(
        title="TensorRT engines",
        heads=("system", "threads", "build s", "MB"),
        rows=tuple((str(f.key), str(f.threads), _figure(f.engine_build_s), _whole(f.engine_mb)) for f in built),
        note="Built once for a GPU and kept; build s is what that took.",
    )


def scaling_table(report: SpeedReport) -> Table:
    """Fitted exponents."""
    rows = []
    for scaling in find_scalings(report):
        values = ", ".join(f"{value:g}" for value in scaling.values)
        rows.append(
            (str(scaling.key), scaling.against, scaling.fixed, values, f"{scaling.exponent:+.2f}", scaling.flag)
        )
    return Table(
        title="growth of the cost of the whole chain",
        heads=("system", "with", "at", "measured at", "exponent", ""),
        rows=tuple(rows),
        note="Fit of seconds = a · value^exponent: +1 is linear, 0 costs nothing, -1 is what threads can give at best. "
        "A batch of clips for a voice goes through files, a single clip does not.",
    )


def ceilings_table(report: SpeedReport) -> Table:
    """The machine's own limits."""
    return Table(
        title="what this machine does at most",
        heads=(
            "threads",
            "fp32 GEMM, torch, GFLOP/s",
            "fp32 GEMM, ONNX Runtime",
            "bf16 GEMM, torch",
            "fp16 GEMM, torch",
            "copy GB/s",
        ),
        rows=tuple(
            (
                f"{found.threads} on {found.device}",
                *map(_whole, (found.fp32_torch_gflop_s, found.fp32_onnx_gflop_s)),
                *map(_whole, (found.bf16_torch_gflop_s, found.fp16_torch_gflop_s, found.copy_gb_s)),
            )
            for found in report.ceilings
        ),
        note=" ".join(
            (
                "The best of some repetitions before and after all else. The ceiling of a precision is the higher one.",
                *dict.fromkeys(f"Left out, {why}." for found in report.ceilings for why in found.left_out),
            )
        ),
    )


def checks_table(report: SpeedReport) -> Table:
    """Scaled times against full ones."""
    return Table(
        title="samplers that are timed in part, once to their end",
        heads=("system", "threads", "clip s", "full s", "scaled s", "off by", ""),
        rows=tuple(
            (
                f"{c.system} ({c.engine} {c.precision})",
                *(str(c.threads), f"{c.seconds:g}", f"{c.full_s:.3g}", f"{c.extrapolated_s:.3g}"),
                *(f"{c.error:+.1%}", "" if c.ok else f"more than {c.within:.0%}"),
            )
            for c in report.full_checks
        ),
    )


def noise_table(report: SpeedReport) -> Table:
    """Sizes that other processes disturbed."""
    return Table(
        title=f"disturbed: others took more than {BUSY_CORES:g} of {report.provenance.machine['cores']} cores",
        heads=("clip s", "batch", "threads", "cores of others", "load average"),
        rows=tuple(
            (
                *(f"{cell.seconds:g}", str(cell.batch), str(cell.threads), f"{cell.others_cores:.2f}"),
                _figure(cell.load_average),
            )
            for cell in report.noise
            if cell.is_heavy
        ),
        note="Wall times of these sizes are too long. Systems took turns, so their ratios suffer less; processor "
        "seconds suffer least.",
    )


def not_measured_table(report: SpeedReport) -> Table:
    """Combinations that were asked for and have no row."""
    return Table(
        title="not measured",
        heads=("what", "why", "what measures it"),
        rows=tuple((entry.what, entry.why.replace("\n", "; "), entry.command) for entry in report.not_measured),
    )


def compare_table(compared: Compared, reference: str | None) -> Table:
    """Ratios row by row."""
    rows = []
    for row in compared.rows:
        after = row.after
        where = f"{after.seconds:g} s, batch {after.batch}, {after.threads} thread(s), {after.stage}"
        noise = f"±{row.noise:.1%}" if row.noise < 1e3 else "unknown"
        rows.append(
            (str(after.key), where, f"{row.before.rtf:.4g}", f"{after.rtf:.4g}", f"{row.ratio:.3f}", noise, row.verdict)
        )
    what = "after over before" if reference is None else f"after over before, each relative to {reference}"
    return Table(f"medians, {what}", ("system", "at", "before", "after", "ratio", "noise", ""), tuple(rows))


def _device(report: SpeedReport) -> str:
    return str(report.options.get("device", ""))


def _rtf(row: Timing | None) -> str:
    if row is None:
        return ""
    return f"{row.rtf:.3g} ({row.rtf_p95:.3g}){_marks(row)}"


def _stage(row: Timing | None) -> str:
    if row is None:
        return ""
    share = "" if row.ceiling_share is None else f" ({row.ceiling_share:.0%})"
    return f"{row.rtf:.3g}{share}{_marks(row)}"


def _marks(row: Timing) -> str:
    return ("*" if row.extrapolated else "") + ("~" if row.is_noisy else "")


def _figure(value: float | None, unit: str = "") -> str:
    return "" if value is None else f"{value:.3g}{unit}"


def _whole(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"
