"""`comosvc-bench report`: results as Markdown, as one HTML page, as pictures, and as the README's table."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..report import replace_between
from ..trained.table import KIND as QUALITY
from ..trained.table import SystemsTable, as_grid
from ..trained.table import load_json as load_quality
from ..trained.table import provenance as provenance_of
from .charts import QualityPoint, as_png, rtf_against_length, speed_against_quality, stacked_stages
from .grid import Grid
from .latency import LatencyReport, latency_grids, latency_provenance, load_latency
from .page import page, section
from .results import ResultError, SpeedReport, load_speed, read_results
from .tables import all_grids, length_grid, paper_grids, provenance, shown_length

BEGIN, END = "<!-- speed: written by comosvc-bench report --readme -->", "<!-- /speed -->"


@dataclass(frozen=True)
class Document:
    """A results file, ready to be shown. `charts`: PNG by what they show."""

    name: str
    kind: str
    note: str
    grids: tuple[Grid, ...]
    charts: dict[str, bytes]
    for_readme: tuple[Grid, ...] = ()

    def as_markdown(self) -> str:
        return "\n\n".join([f"## {self.name}", self.note, *(grid.as_markdown() for grid in self.grids)])


def read_document(path: Path) -> Document:
    """Any result of `rtf`, `latency` or `systems-quality`. Raises `ResultError`."""
    kind = read_results(path)["kind"]
    if kind == "latency":
        return _of_latency(path.stem, load_latency(path))
    if kind == QUALITY:
        return _of_quality(path.stem, load_quality(path))
    return _of_speed(path.stem, load_speed(path))


def write_documents(documents: Sequence[Document], folder: Path) -> list[Path]:
    """`speed.md`, `speed.html`, and a PNG for each chart."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "speed.md": "\n\n".join(document.as_markdown() for document in documents).encode() + b"\n",
        "speed.html": page("How fast", [section(d.name, d.note, d.charts, d.grids) for d in documents]).encode(),
    }
    for document in documents:
        for title, png in document.charts.items():
            words = "".join(letter if letter.isalnum() else " " for letter in title).split()
            files[f"{document.name}-{'-'.join(words)}.png"] = png
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return [folder / name for name in files]


def into_readme(documents: Sequence[Document], readme: Path) -> None:
    """Renew what stands between the markers of `readme`. Raises `ResultError` without markers."""
    parts = [
        "\n\n".join([*(grid.as_markdown() for grid in document.for_readme), document.note]) for document in documents
    ]
    try:
        replace_between(readme, BEGIN, END, "\n\n".join(parts))
    except (OSError, ValueError) as error:
        raise ResultError(str(error)) from error


def _of_speed(name: str, report: SpeedReport) -> Document:
    charts = {}
    pairs = sorted({(row.threads, row.batch) for row in report.totals()})
    for threads, batch in pairs:
        size = f"batch {batch} threads {threads}"
        cell = (threads, batch, shown_length(report, threads, batch))
        if len({row.seconds for row in report.totals(threads, batch)}) > 1:
            charts[f"rtf against length {size}"] = as_png(rtf_against_length(report, threads, batch))
        charts[f"stages {size}"] = as_png(stacked_stages(report, cell))
    lengths = [length_grid(report, threads, batch) for threads, batch in pairs]
    return Document(
        name=name,
        kind="rtf",
        note=provenance(report),
        grids=tuple(all_grids(report)),
        charts=charts,
        for_readme=(*lengths, *paper_grids(report)),
    )


def _of_quality(name: str, table: SystemsTable) -> Document:
    points = [
        QualityPoint(f"{row.title}, {row.evaluations}", row.chain_rtf, row.quality.relative_l1_audio)
        for row in table.rows
        if row.chain_rtf is not None
    ]
    chart = as_png(speed_against_quality(points, "L1 of the audio to the truth (unconverted: 1)"))
    grids = (as_grid(table),)
    return Document(name, QUALITY, provenance_of(table), grids, {"speed against quality": chart}, grids)


def _of_latency(name: str, report: LatencyReport) -> Document:
    grids = latency_grids(report)
    return Document(name, "latency", latency_provenance(report), grids, {}, grids)
