"""Pictures of a run, as matplotlib figures."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from .results import TOTAL, SpeedReport, VariantKey
from .tables import stages_in_order

_WIDTH_IN, _HEIGHT_IN, _DPI = 8.0, 4.5, 120
_PANELS_WIDTH_IN, _LEGEND_ROW_IN = 11.0, 0.2
_ZOOM = 3.0
"""The panel of the fast systems ends at so many times the slowest of one evaluation."""
_MARKERS = "osD^vP*"
_LINES = ("-", "--", ":", "-.")
_STAGE_COLOURS = {
    "content": "tab:blue",
    "f0": "tab:orange",
    "first_acoustic": "#98df8a",
    "first_vocoder": "#ff9896",
    "condition": "tab:purple",
    "acoustic": "tab:green",
    "vocoder": "tab:red",
}
_OTHER_COLOUR = "tab:grey"


@dataclass(frozen=True)
class QualityPoint:
    """A system in the chart of speed against quality, at one number of evaluations of its network."""

    name: str
    evaluations: int
    rtf: float
    quality: float


def rtf_against_length(report: SpeedReport, threads: int, batch: int) -> Figure:
    """A line for each system, both axes logarithmic; hollow where timed in part and scaled. 1 is real time."""
    rows = report.totals(threads, batch)
    keys: list[VariantKey] = list(dict.fromkeys(row.key for row in rows))
    systems = list(dict.fromkeys(key.system for key in keys))
    ways = list(dict.fromkeys((key.engine, key.precision) for key in keys))
    figure, columns = _with_legend_below(_WIDTH_IN, _HEIGHT_IN, len(keys))
    axes = figure.add_subplot()
    for key in keys:
        line = sorted((row for row in rows if row.key == key), key=lambda row: row.seconds)
        colour, marker = _look(systems.index(key.system))
        hollow = any(row.extrapolated for row in line)
        x, y = [row.seconds for row in line], [row.rtf for row in line]
        axes.plot(
            x,
            y,
            label=str(key),
            fillstyle="none" if hollow else "full",
            linestyle=_LINES[ways.index((key.engine, key.precision)) % len(_LINES)],
            color=colour,
            marker=marker,
        )
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
    figure.legend(loc="outside lower center", ncols=columns, fontsize="x-small")
    return figure


def stacked_stages(report: SpeedReport, cell: tuple[int, int, float]) -> Figure:
    """A bar for each system, a segment for each stage, its RTF written at its end.

    Where samplers of many evaluations stand beside systems of one, a first panel shows the beginning of all bars at a
    scale that suits the latter; an arrow marks the bars that go on.
    """
    threads, batch, seconds = cell
    totals = [row for row in report.totals(threads, batch) if row.seconds == seconds]
    longest = max(row.rtf for row in totals)
    zoom = _ZOOM * max((row.rtf for row in totals if row.evaluations == 1), default=min(row.rtf for row in totals))
    limits = [zoom, longest] if longest > zoom else [longest]
    width = _WIDTH_IN if len(limits) == 1 else _PANELS_WIDTH_IN
    figure = Figure(figsize=(width, 1.6 + 0.3 * len(totals)), layout="constrained")
    panels = figure.subplots(1, len(limits), sharey=True, squeeze=False)[0]
    for axes, limit in zip(panels, limits, strict=True):
        _bars(axes, report, cell, limit)
    if len(limits) == 2:
        panels[0].set_title(f"up to {zoom:.2g}: ▸ goes on at the right", fontsize="small")
        panels[1].set_title("whole", fontsize="small")
    panels[0].set_ylim(len(totals) - 0.4, -0.6)
    figure.suptitle(f"Stages at {seconds:g} s, batch {batch}, {threads} thread(s); *: timed in part and scaled")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=8, fontsize="small")
    return figure


def _bars(axes: Axes, report: SpeedReport, cell: tuple[int, int, float], limit: float) -> None:
    """The bars of `stacked_stages` as far as `limit`."""
    rows = [row for row in report.rows if row.cell == cell]
    totals = {row.key: row for row in rows if row.stage == TOTAL}
    found = {(row.key, row.stage): row.rtf for row in rows}
    left = [0.0] * len(totals)
    for stage in stages_in_order(row.stage for row in rows if row.stage != TOTAL):
        widths = [found.get((key, stage), 0.0) for key in totals]
        colour = _STAGE_COLOURS.get(stage, _OTHER_COLOUR)
        axes.barh([str(key) for key in totals], widths, left=left, label=stage, color=colour)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    for number, row in enumerate(totals.values()):
        words = f"{row.rtf:.3g}{'*' if row.extrapolated else ''}"
        cut = row.rtf > limit
        axes.annotate(
            f"▸ {words}" if cut else words,
            (limit if cut else row.rtf, number),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize="x-small",
            annotation_clip=False,
        )
    axes.set(xlabel="RTF", xlim=(0.0, limit * (1.0 if any(row.rtf > limit for row in totals.values()) else 1.12)))
    axes.grid(alpha=0.3, axis="x")
    axes.set_axisbelow(True)


def speed_against_quality(points: Sequence[QualityPoint], measure: str) -> Figure:
    """A point for each system whose quality somebody measured; those of one system at several evaluations joined."""
    names = list(dict.fromkeys(point.name for point in points))
    figure, columns = _with_legend_below(_WIDTH_IN, _HEIGHT_IN, len(names))
    axes = figure.add_subplot()
    for number, name in enumerate(names):
        own = sorted((point for point in points if point.name == name), key=lambda point: point.rtf)
        x, y = [point.rtf for point in own], [point.quality for point in own]
        colour, marker = _look(number)
        axes.plot(x, y, label=name, linewidth=0.8, color=colour, marker=marker)
    for point in points:
        axes.annotate(
            str(point.evaluations),
            (point.rtf, point.quality),
            xytext=(0, 6),
            textcoords="offset points",
            ha="center",
            fontsize="small",
        )
    axes.set(
        xscale="log",
        xlabel="RTF of the whole chain",
        ylabel=measure,
        title="Speed against quality, with the evaluations of the network",
    )
    axes.margins(0.1)
    _plain_numbers(axes.xaxis)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=columns, fontsize="small")
    return figure


def _with_legend_below(width_in: float, height_in: float, entries: int) -> tuple[Figure, int]:
    """An empty figure with room for a legend of so many entries below, and the legend's columns."""
    columns = 3
    rows = -(-entries // columns)
    return Figure(figsize=(width_in, height_in + _LEGEND_ROW_IN * rows), layout="constrained"), columns


def _look(number: int) -> tuple[str, str]:
    """Colour and marker of one system among many."""
    return f"C{number % 10}", _MARKERS[number % len(_MARKERS)]


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
