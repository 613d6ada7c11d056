"""`comosvc-bench report`: results as Markdown, one HTML page, pictures, and tables inside Markdown files."""

from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path

from ...runtime.storage import write_whole
from ..quality.goals import GOALS
from ..report import (
    SPEED,
    SUMMARY,
    Figures,
    OtherKindError,
    Result,
    ResultError,
    Table,
    check_readme,
    into_readme,
    load,
)
from ..trained.table import SystemsTable
from .charts import QualityPoint, as_png, rtf_against_length, speed_against_quality, stacked_stages
from .latency_results import LatencyReport, latency_tables
from .results import SpeedReport
from .tables import all_tables, length_table, paper_tables, shown_length, summary_table

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem; color: #222 }
h1 { font-size: 1.4rem } h2 { font-size: 1.05rem; margin: 2rem 0 .3rem } .note { color: #666 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #ddd; font-weight: normal }
th { color: #666 } th:first-child, td:first-child { text-align: left } img { max-width: 100%; display: block }
"""


def _section(title: str, note: str, charts: Mapping[str, bytes], tables: Sequence[Table]) -> str:
    """HTML of one result: its charts (PNG by title), then its tables."""
    images = "".join(
        f'<h2>{escape(name)}</h2>\n<img alt="{escape(name)}" src="data:image/png;base64,{b64encode(png).decode()}">\n'
        for name, png in charts.items()
    )
    shown = "\n".join(table.as_html() for table in tables)
    return f'<h1>{escape(title)}</h1>\n<p class="note">{escape(note)}</p>\n{images}{shown}\n'


def _page(title: str, sections: Sequence[str]) -> str:
    """An HTML page that loads nothing from elsewhere."""
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


@dataclass(frozen=True)
class Document:
    """A results file, ready to be shown. `charts`: PNG by title."""

    name: str
    note: str
    tables: tuple[Table, ...]
    charts: dict[str, bytes]
    for_readme: tuple[Table, ...] = ()
    summary: tuple[Table, ...] = ()
    by_engine: tuple[str, ...] | None = None
    """Row in the table of qualities by provider and precision; None for other results."""

    def as_markdown(self) -> str:
        return "\n\n".join([f"## {self.name}", self.note, *(table.as_markdown() for table in self.tables)])


def read_document(path: Path) -> Document:
    """Any result of the kinds in `_SHOWN`. Raises `ResultError`."""
    result = load(path, [*_SHOWN])
    return _SHOWN[type(result)](path.stem, result)


def read_documents(paths: Sequence[Path]) -> tuple[list[Document], list[str]]:
    """Every result under a name of its own, the quality by provider and precision last where there are several; and a
    message on each file of another kind. Raises `ResultError` if nothing is left, or a file is damaged.
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
    compared = [document for document in documents if document.by_engine is not None]
    return documents + ([_by_engine(compared)] if len(compared) > 1 else []), skipped


def _unused(name: str, used: set[str]) -> str:
    """`name`, or the first of name-2, name-3, … that is not taken: charts and sections are called by it."""
    return next(n for n in (name, *(f"{name}-{k}" for k in range(2, len(used) + 3))) if n not in used)


def write_documents(documents: Sequence[Document], folder: Path) -> list[Path]:
    """`speed.md`, `speed.html`, and a PNG for each chart. Raises `ResultError` where they cannot be written."""
    html = _page("How fast", [_section(d.name, d.note, d.charts, d.tables) for d in documents])
    files = {
        "speed.md": "\n\n".join(document.as_markdown() for document in documents).encode() + b"\n",
        "speed.html": html.encode(),
    }
    for document in documents:
        for title, png in document.charts.items():
            words = "".join(letter if letter.isalnum() else " " for letter in title).split()
            files[f"{document.name}-{'-'.join(words)}.png"] = png
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            write_whole(folder / name, data)
    except OSError as error:
        raise ResultError(f"{folder} cannot be written to: {error.strerror}\nhint: name a folder of yours") from error
    return [folder / name for name in files]


def check_report_readme(documents: Sequence[Document], readme: Path) -> None:
    """Before anything is written. Raises `ResultError` if `report_into_readme` would."""
    between, chosen = _place(readme)
    check_readme(readme, between)
    if not any(map(chosen, documents)):
        raise ResultError(
            "none of these results has a table for the README\n"
            "hint: the table of one voice gets there by comosvc-bench quality --readme"
        )


def report_into_readme(documents: Sequence[Document], readme: Path) -> None:
    """Renew the tables between the markers of `readme`. Raises `ResultError` without markers."""
    between, chosen = _place(readme)
    parts = [
        "\n\n".join([*(table.as_markdown() for table in chosen(document)), document.note])
        for document in documents
        if chosen(document)
    ]
    into_readme(readme, between, "\n\n".join(parts))


def _place(readme: Path) -> tuple[tuple[str, str], Callable[[Document], tuple[Table, ...]]]:
    """The markers that a file has, and the tables of a result that stand between them."""
    if readme.is_file() and SUMMARY[0] in readme.read_text("utf-8", errors="replace"):
        return SUMMARY, lambda document: document.summary
    return SPEED, lambda document: document.for_readme


def _of_figures(name: str, result: Figures) -> Document:
    quality, by_engine = result.details.get("one_step"), None
    if quality:
        rtf = next((row.shown for row in result.rows if row.what == GOALS["rtf"].what), "")
        by_engine = (
            *(str(result.voice.get(fact, "")) for fact in ("provider", "precision", "bundle_id")),
            *(f"{quality[figure]:.3f}" for figure in ("relative_l1", "relative_l1_audio", "texture")),
            f"{100.0 * quality['f0']['gross']:.2f} %",
            f"{quality['f0']['rmse_cents']:.1f} cents",
            f"{100.0 * quality['identified']:.0f} %",
            rtf,
        )
    return Document(name, result.note, (result.table(),), {}, by_engine=by_engine)


def _by_engine(documents: Sequence[Document]) -> Document:
    table = Table(
        title="quality by provider and precision, one step",
        heads=(
            *("results", "provider", "precision", "voice", "rel. L1", "audio L1", "texture"),
            *("F0 gross", "F0 RMSE", "identified", "RTF"),
        ),
        rows=tuple((document.name, *(document.by_engine or ())) for document in documents),
        note="Of conversions of the held-out set. L1 of the log-mel to the target singer's own rendering over the "
        "unconverted source's, of the mel and of the audio; texture over the truth's, 1 is right. RTF: processor "
        "seconds per second of audio on one thread.",
    )
    note = "\n".join(document.note for document in documents)
    return Document("quality by provider and precision", note, (table,), {}, (table,), (table,))


def _of_speed(name: str, result: SpeedReport) -> Document:
    charts = {}
    pairs = sorted({(row.threads, row.batch) for row in result.totals()})
    for threads, batch in pairs:
        size = f"batch {batch} threads {threads}"
        cell = (threads, batch, shown_length(result, threads, batch))
        if len({row.seconds for row in result.totals(threads, batch)}) > 1:
            charts[f"rtf against length {size}"] = as_png(rtf_against_length(result, threads, batch))
        charts[f"stages {size}"] = as_png(stacked_stages(result, cell))
    lengths = [length_table(result, threads, batch) for threads, batch in pairs]
    return Document(
        name=name,
        note=result.note,
        tables=tuple(all_tables(result)),
        charts=charts,
        for_readme=(*lengths, *paper_tables(result)),
        summary=(summary_table(result),),
    )


def _of_systems(name: str, result: SystemsTable) -> Document:
    points = [
        QualityPoint(row.title, row.evaluations, row.chain_rtf, row.quality.relative_l1_audio)
        for row in result.rows
        if row.chain_rtf is not None and row.evaluations is not None
    ]
    chart = as_png(speed_against_quality(points, "L1 of the audio to the truth (unconverted: 1)"))
    tables = (result.table(),)
    return Document(name, result.note, tables, {"speed against quality": chart}, tables)


def _of_latency(name: str, result: LatencyReport) -> Document:
    tables = latency_tables(result)
    return Document(name, result.note, tables, {}, tables)


_SHOWN: dict[type[Result], Callable[..., Document]] = {
    SpeedReport: _of_speed,
    LatencyReport: _of_latency,
    SystemsTable: _of_systems,
    Figures: _of_figures,
}
