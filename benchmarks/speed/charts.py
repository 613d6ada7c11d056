"""Pictures of a run, as matplotlib figures."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from .results import TOTAL, SpeedReport
from .variants import VariantKey

_WIDTH_IN, _HEIGHT_IN, _DPI = 8.0, 4.5, 120


@dataclass(frozen=True)
class QualityPoint:
    """A system in the chart of speed against quality."""

    name: str
    rtf: float
    quality: float


def rtf_against_length(report: SpeedReport, threads: int, batch: int) -> Figure:
    """A line for each system, both axes logarithmic; hollow where timed in part and scaled. 1 is real time."""
    figure = Figure(figsize=(_WIDTH_IN, _HEIGHT_IN), layout="constrained")
    axes = figure.add_subplot()
    rows = report.totals(threads, batch)
    for key in dict.fromkeys(row.key for row in rows):
        line = sorted((row for row in rows if row.key == key), key=lambda row: row.seconds)
        hollow = any(row.extrapolated for row in line)
        x, y = [row.seconds for row in line], [row.rtf for row in line]
        axes.plot(x, y, marker="o", label=str(key), fillstyle="none" if hollow else "full")
    axes.axhline(1.0, color="grey", linewidth=0.8, linestyle=":")
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="length of the clip, s",
        ylabel="RTF",
        title=f"Whole chain, batch {batch}, {threads} thread(s); hollow: timed in part and scaled",
    )
    _plain_numbers(axes.yaxis)
    _plain_numbers(axes.xaxis, at=sorted({row.seconds for row in rows}))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize="x-small")
    return figure


def stacked_stages(report: SpeedReport, cell: tuple[int, int, float]) -> Figure:
    """A bar for each system, a segment for each stage."""
    threads, batch, seconds = cell
    rows = [row for row in report.rows if row.cell == cell]
    keys: list[VariantKey] = list(dict.fromkeys(row.key for row in rows))
    found = {(row.key, row.stage): row.rtf for row in rows}
    figure = Figure(figsize=(_WIDTH_IN, 1.2 + 0.35 * len(keys)), layout="constrained")
    axes = figure.add_subplot()
    left = [0.0] * len(keys)
    for stage in dict.fromkeys(row.stage for row in rows if row.stage != TOTAL):
        widths = [found.get((key, stage), 0.0) for key in keys]
        axes.barh([str(key) for key in keys], widths, left=left, label=stage)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.set(xlabel="RTF", title=f"Stages at {seconds:g} s, batch {batch}, {threads} thread(s)")
    axes.grid(alpha=0.3, axis="x")
    figure.legend(loc="outside right upper", fontsize="x-small")
    return figure


def speed_against_quality(points: Sequence[QualityPoint], measure: str) -> Figure:
    """A point for each system whose quality somebody measured."""
    figure = Figure(figsize=(_WIDTH_IN, _HEIGHT_IN), layout="constrained")
    axes = figure.add_subplot()
    axes.scatter([point.rtf for point in points], [point.quality for point in points])
    for point in points:
        axes.annotate(
            point.name, (point.rtf, point.quality), xytext=(5, 5), textcoords="offset points", fontsize="small"
        )
    axes.set(xscale="log", xlabel="RTF of the whole chain", ylabel=measure, title="Speed against quality")
    axes.margins(0.15)
    _plain_numbers(axes.xaxis)
    axes.grid(alpha=0.3)
    return figure


def _plain_numbers(axis: Axis, at: Sequence[float] | None = None) -> None:
    """Numbers without powers on a logarithmic axis: `at` these, or at 1, 2 and 5 of every decade."""
    if at is None:
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    else:
        axis.set_ticks(at)
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def as_png(figure: Figure) -> bytes:
    """The picture, the same bytes for the same figure."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()
