"""`comosvc-bench report`: results as Markdown, one HTML page, pictures, and the README's table."""

from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path

from ..quality.table import GOALS
from ..report import Report, WordTable, check_readme, replace_between
from ..report import load_json as load_report
from ..report import provenance as report_provenance
from ..report import title as report_title
from ..trained.evaluation import KIND as QUALITY
from ..trained.evaluation import SystemsTable, as_grid
from ..trained.evaluation import load_json as load_quality
from ..trained.evaluation import provenance as provenance_of
from .charts import QualityPoint, as_png, rtf_against_length, speed_against_quality, stacked_stages
from .latency import LatencyReport, latency_grids, latency_provenance, load_latency
from .results import OtherKindError, ResultError, SpeedReport, load_speed, read_results
from .tables import all_grids, length_grid, paper_grids, provenance, shown_length, summary_grid

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem; color: #222 }
h1 { font-size: 1.4rem } h2 { font-size: 1.05rem; margin: 2rem 0 .3rem } .note { color: #666 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #ddd; font-weight: normal }
th { color: #666 } th:first-child, td:first-child { text-align: left } img { max-width: 100%; display: block }
"""


def section(title: str, note: str, charts: Mapping[str, bytes], grids: Sequence[WordTable]) -> str:
    """A run: its charts (PNG by what they show), then its tables."""
    images = "".join(
        f'<h2>{escape(name)}</h2>\n<img alt="{escape(name)}" src="data:image/png;base64,{b64encode(png).decode()}">\n'
        for name, png in charts.items()
    )
    tables = "\n".join(grid.as_html() for grid in grids)
    return f'<h1>{escape(title)}</h1>\n<p class="note">{escape(note)}</p>\n{images}{tables}\n'


def page(title: str, sections: Sequence[str]) -> str:
    """The whole of it."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{escape(_POLICY)}">
<meta name="viewport" content="width=device-width">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
{"".join(sections)}</body>
</html>
"""


BEGIN, END = "<!-- speed: written by comosvc-bench report --readme -->", "<!-- /speed -->"
SUMMARY_BEGIN, SUMMARY_END = "<!-- summary: written by comosvc-bench report --readme -->", "<!-- /summary -->"
"""A file has the markers of what it shall show: every table for a reader, or one for each result."""


@dataclass(frozen=True)
class Document:
    """A results file, ready to be shown. `charts`: PNG by what they show."""

    name: str
    kind: str
    note: str
    grids: tuple[WordTable, ...]
    charts: dict[str, bytes]
    for_readme: tuple[WordTable, ...] = ()
    summary: tuple[WordTable, ...] = ()
    by_engine: tuple[str, ...] | None = None
    """Of a voice's quality: its row in the table by provider and precision."""

    def as_markdown(self) -> str:
        return "\n\n".join([f"## {self.name}", self.note, *(grid.as_markdown() for grid in self.grids)])


def read_document(path: Path) -> Document:
    """Any result of the kinds in `results.KINDS`. Raises `ResultError`."""
    kind = read_results(path)["kind"]
    if kind == "quality":
        return _of_report(path.stem, _load_report(path))
    if kind == "latency":
        return _of_latency(path.stem, load_latency(path))
    if kind == QUALITY:
        return _of_quality(path.stem, load_quality(path))
    return _of_speed(path.stem, load_speed(path))


def read_documents(paths: Sequence[Path]) -> tuple[list[Document], list[str]]:
    """Every result under a name of its own, the quality by provider and precision last where there are several; and
    what is said of files of another kind. Raises `ResultError` if nothing is left, or a file is damaged.
    """
    documents: list[Document] = []
    skipped: list[str] = []
    for path in paths:
        try:
            document = read_document(path)
        except OtherKindError as error:
            skipped.append(str(error))
            continue
        documents.append(replace(document, name=_unused(document.name, {other.name for other in documents})))
    if not documents:
        raise ResultError("\n".join(skipped))
    rows = [(document.name, *document.by_engine) for document in documents if document.by_engine is not None]
    return documents + ([_by_engine(rows, documents)] if len(rows) > 1 else []), skipped


def _unused(name: str, used: set[str]) -> str:
    """`name`, or the first of name-2, name-3, … that is not taken: charts and sections are called by it."""
    return next(n for n in (name, *(f"{name}-{k}" for k in range(2, len(used) + 3))) if n not in used)


def write_documents(documents: Sequence[Document], folder: Path) -> list[Path]:
    """`speed.md`, `speed.html`, and a PNG for each chart. Raises `ResultError` where they cannot be written."""
    files = {
        "speed.md": "\n\n".join(document.as_markdown() for document in documents).encode() + b"\n",
        "speed.html": page("How fast", [section(d.name, d.note, d.charts, d.grids) for d in documents]).encode(),
    }
    for document in documents:
        for title, png in document.charts.items():
            words = "".join(letter if letter.isalnum() else " " for letter in title).split()
            files[f"{document.name}-{'-'.join(words)}.png"] = png
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (folder / name).write_bytes(data)
    except OSError as error:
        raise ResultError(f"{folder} cannot be written to: {error.strerror}\nhint: name a folder of yours") from error
    return [folder / name for name in files]


def check_speed_readme(documents: Sequence[Document], readme: Path | None) -> None:
    """Before anything is written. Raises `ResultError` if `into_readme` would."""
    if readme is None:
        return
    begin, end, chosen = _place(readme)
    check_readme(readme, begin, end)
    if not any(map(chosen, documents)):
        raise ResultError(
            "none of these results has a table for the README\n"
            "hint: the table of one voice gets there by comosvc-bench quality --readme"
        )


def into_readme(documents: Sequence[Document], readme: Path) -> None:
    """Renew what stands between the markers of `readme`. Raises `ResultError` without markers."""
    begin, end, chosen = _place(readme)
    parts = [
        "\n\n".join([*(grid.as_markdown() for grid in chosen(document)), document.note])
        for document in documents
        if chosen(document)
    ]
    replace_between(readme, begin, end, "\n\n".join(parts))


def _place(readme: Path) -> tuple[str, str, Callable[[Document], tuple[WordTable, ...]]]:
    """The markers that a file has, and which tables of a result stand between them."""
    if readme.is_file() and SUMMARY_BEGIN in readme.read_text("utf-8", errors="replace"):
        return SUMMARY_BEGIN, SUMMARY_END, lambda document: document.summary
    return BEGIN, END, lambda document: document.for_readme


def _load_report(path: Path) -> Report:
    try:
        return load_report(path)
    except (KeyError, TypeError) as error:
        raise ResultError(f"{path} is damaged: {type(error).__name__}: {error}") from error


def _of_report(name: str, report: Report) -> Document:
    """A table of `comosvc-bench quality`, or of another command that measures against goals."""
    quality = report.details.get("one_step")
    grid = WordTable(
        title=report_title(report) if quality else report.voice.get("name", name),
        heads=("what", "measured", "goal", "", "on"),
        rows=tuple((row.what, row.shown, row.goal, row.verdict, row.note) for row in report.rows),
    )
    by_engine = None
    if quality:
        rtf = next((row.shown for row in report.rows if row.what == GOALS["rtf"].what), "")
        by_engine = (
            *(str(report.voice.get(fact, "")) for fact in ("provider", "precision", "bundle_id")),
            *(f"{quality[figure]:.3f}" for figure in ("relative_l1", "relative_l1_audio", "texture")),
            f"{100.0 * quality['f0']['gross']:.2f} %",
            f"{quality['f0']['rmse_cents']:.1f} cents",
            f"{100.0 * quality['identified']:.0f} %",
            rtf,
        )
    return Document(name, "quality", report_provenance(report), (grid,), {}, by_engine=by_engine)


def _by_engine(rows: Sequence[tuple[str, ...]], documents: Iterable[Document]) -> Document:
    grid = WordTable(
        title="quality by provider and precision, one step",
        heads=(
            *("results", "provider", "precision", "voice", "rel. L1", "audio L1", "texture"),
            *("F0 gross", "F0 RMSE", "identified", "RTF"),
        ),
        rows=tuple(rows),
        note="Of conversions of the held-out set. L1 of the log-mel to the target singer's own rendering over the "
        "unconverted source's, of the mel and of the audio; texture over the truth's, 1 is right. RTF: processor "
        "seconds per second of audio on one thread.",
    )
    note = "\n".join(document.note for document in documents if document.by_engine is not None)
    return Document("quality by provider and precision", "quality", note, (grid,), {}, (grid,), (grid,))


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
        summary=(summary_grid(report),),
    )


def _of_quality(name: str, table: SystemsTable) -> Document:
    points = [
        QualityPoint(row.title, row.evaluations, row.chain_rtf, row.quality.relative_l1_audio)
        for row in table.rows
        if row.chain_rtf is not None and row.evaluations is not None
    ]
    chart = as_png(speed_against_quality(points, "L1 of the audio to the truth (unconverted: 1)"))
    grids = (as_grid(table),)
    return Document(name, QUALITY, provenance_of(table), grids, {"speed against quality": chart}, grids)


def _of_latency(name: str, report: LatencyReport) -> Document:
    grids = latency_grids(report)
    return Document(name, "latency", latency_provenance(report), grids, {}, grids)
