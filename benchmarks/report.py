"""Results of a benchmark: rows with goals, as a table, as JSON, and for the README."""

import json
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from html import escape
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape as plain
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from ..runtime import __version__
from ..runtime.conversion.cores import usable_cores
from ..runtime.errors import ComosvcError

FORMAT_VERSION = 1
_VERSIONS_OF = ("numpy", "onnxruntime", "soxr", "soundfile", "torch")
_BEGIN, _END = "<!-- quality: written by comosvc-bench quality --readme -->", "<!-- /quality -->"


class ResultError(ComosvcError):
    """A file of results cannot be used, or shown where it was asked for."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure. `value` None: not measured, and `note` says how to."""

    what: str
    value: float | None = None
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None without a goal or without a value."""
        if self.value is None or (self.at_least is None and self.at_most is None):
            return None
        above = self.at_least is None or self.value >= self.at_least
        return above and (self.at_most is None or self.value <= self.at_most)

    @property
    def goal(self) -> str:
        """The goal in words, empty where there is none."""
        if self.at_least is not None and self.at_most is not None:
            return f"{self.at_least:g}–{self.at_most:g}{self._unit}"
        if self.at_least is not None:
            return f"≥ {self.at_least:g}{self._unit}"
        return f"≤ {self.at_most:g}{self._unit}" if self.at_most is not None else ""

    @property
    def shown(self) -> str:
        """The value to three digits with its unit, empty if not measured."""
        return "" if self.value is None else f"{self.value:.3g}{self._unit}"

    @property
    def verdict(self) -> str:
        """pass, miss, or empty."""
        return {True: "pass", False: "miss", None: ""}[self.met]

    @property
    def _unit(self) -> str:
        return f" {self.unit}" if self.unit else ""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Rows and where they come from."""

    command: str
    rows: tuple[Row, ...]
    voice: dict[str, Any]
    machine: dict[str, Any] = field(default_factory=lambda: this_machine())
    versions: dict[str, str] = field(default_factory=lambda: installed_versions())
    commit: str | None = field(default_factory=lambda: current_commit())
    details: dict[str, Any] = field(default_factory=dict)
    """What the rows were pooled from, for looking closer."""


def this_machine() -> dict[str, Any]:
    """Processor, cores that this process may use, operating system."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text("utf-8").splitlines() if cpuinfo.is_file() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {
        "cpu": name or platform.processor(),
        "cores": usable_cores(),
        "os": f"{platform.system()} {platform.machine()}",
    }


def installed_versions() -> dict[str, str]:
    """Versions of what the figures depend on, as far as installed."""
    found = {"comosvc": __version__, "python": platform.python_version()}
    for name in _VERSIONS_OF:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def current_commit() -> str | None:
    """Commit of the checkout that this file lies in, with `+` where it was changed since; None outside of one."""
    folder = Path(__file__).parent
    try:
        commit = _git(folder, "rev-parse", "--short=12", "HEAD")
        return commit + ("+" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", folder, *arguments], check=True, capture_output=True, text=True).stdout.strip()


def title(report: Report) -> str:
    """What the rows are about, and the engine and precision that they were measured in as far as recorded."""
    how = " ".join(report.voice[name] for name in ("provider", "precision") if name in report.voice)
    return f"quality of {report.voice.get('name', 'the voice')}{', ' + how if how else ''}"


def as_table(report: Report) -> Table:
    """The rows for a terminal."""
    table = Table(title=plain(title(report)), title_justify="left", expand=False)
    table.add_column("what", ratio=3, overflow="fold")
    table.add_column("measured", justify="right", overflow="fold")
    table.add_column("goal", justify="right", overflow="fold")
    table.add_column("", overflow="fold")
    table.add_column("on", ratio=2, style="dim", overflow="fold")
    for row in report.rows:
        style = {"pass": "green", "miss": "red"}.get(row.verdict, "")
        verdict = f"[{style}]{row.verdict}[/]" if style else ""
        table.add_row(plain(row.what), row.shown, row.goal, verdict, plain(row.note))
    return table


def save_json(report: Report, path: Path) -> None:
    """Write a report; `load_json` reads it back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    body = {"format_version": FORMAT_VERSION, **asdict(report)}
    path.write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n", "utf-8")


def load_json(path: Path) -> Report:
    """Read what `save_json` wrote."""
    body = json.loads(path.read_text("utf-8"))
    if (version := body.pop("format_version")) != FORMAT_VERSION:
        raise ValueError(f"{path} has format_version {version}; this reads {FORMAT_VERSION}")
    return Report(rows=tuple(Row(**row) for row in body.pop("rows")), **body)


def as_markdown(report: Report) -> str:
    """The rows as a Markdown table, with what they were measured on and by which command."""
    lines = ["| What | Measured | Goal | | On |", "|---|---|---|---|---|"]
    lines += [f"| {row.what} | {row.shown} | {row.goal} | {row.verdict} | {row.note} |" for row in report.rows]
    return "\n".join([*lines, "", provenance(report)])


def provenance(report: Report) -> str:
    """By which command it was measured, where, and with what."""
    machine = f"{report.machine['cpu']}, {report.machine['cores']} cores, {report.machine['os']}"
    return f"`{report.command}` at commit {report.commit}, on {machine}; {in_words(report.versions)}."


def in_words(versions: Mapping[str, str]) -> str:
    """`installed_versions` in a line."""
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def into_readme(report: Report, readme: Path) -> None:
    """Replace what stands between the markers of `readme` by `as_markdown`. Raises `ResultError` without markers."""
    replace_between(readme, _BEGIN, _END, as_markdown(report))


def check_readme(readme: Path | None, begin: str = _BEGIN, end: str = _END) -> None:
    """Before measuring. Raises `ResultError` unless the file has the markers, each once and in order."""
    if readme is not None:
        _split(readme, begin, end)


def replace_between(path: Path, begin: str, end: str, body: str) -> None:
    """Put `body` between the lines `begin` and `end` of a file. Raises `ResultError` unless each is there once."""
    before, after = _split(path, begin, end)
    try:
        path.write_text(f"{before}{begin}\n{body}\n{end}{after}", "utf-8")
    except OSError as error:
        raise ResultError(f"{path} cannot be written: {error.strerror}") from error


def _split(path: Path, begin: str, end: str) -> tuple[str, str]:
    """What stands before `begin` and after `end`."""
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise ResultError(
            f"{path} cannot be read: {error.strerror}\nhint: --readme renews a file that exists"
        ) from error
    except UnicodeDecodeError as error:
        raise ResultError(f"{path} is no UTF-8 text: {error}") from error
    before, _, rest = text.partition(begin)
    if text.count(begin) != 1 or text.count(end) != 1 or end not in rest:
        raise ResultError(
            f"{path} must hold the line {begin} once and {end} once after it\n"
            "hint: put both where the table shall stand"
        )
    return before, rest.partition(end)[2]


def typed_command() -> str:
    """The command line of this process, which reproduces a result; `comosvc bench …` is written `comosvc-bench …`."""
    arguments = sys.argv[1:]
    return shlex.join(["comosvc-bench", *(arguments[1:] if arguments[:1] == ["bench"] else arguments)])


@dataclass(frozen=True)
class WordTable:
    """A table; the first column says what a row is about. A cell nobody has measured is empty."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def for_terminal(self) -> Table:
        table = Table(title=plain(self.title), caption=plain(self.note) or None, title_justify="left")
        table.caption_justify = "left"
        for number, head in enumerate(self.heads):
            table.add_column(plain(head), justify="right" if number else "left", overflow="fold")
        for row in self.rows:
            table.add_row(*map(plain, row))
        return table

    def as_markdown(self) -> str:
        """With the title as a paragraph before it and the note after it."""
        lines = [f"**{self.title}**", "", _line(self.heads), "|---" + "|---:" * (len(self.heads) - 1) + "|"]
        lines += map(_line, self.rows)
        return "\n".join([*lines, *(["", self.note] if self.note else [])])

    def as_html(self) -> str:
        heads = "".join(f"<th>{escape(head)}</th>" for head in self.heads)
        rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>\n" for row in self.rows)
        note = f'<p class="note">{escape(self.note)}</p>' if self.note else ""
        return f"<h2>{escape(self.title)}</h2>\n<table><tr>{heads}</tr>\n{rows}</table>\n{note}"


def _line(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", "; ") for cell in cells) + " |"


def show(table: Table) -> None:
    """Print a table no narrower than its longest words: figures that wrap with the terminal's lines can be read, those
    that are broken every three letters cannot.
    """
    for column in table.columns:
        cells = (Text.from_markup(str(cell)).plain for cell in (column.header, *column.cells))
        column.min_width = max((cell_len(word) for cell in cells for word in cell.split()), default=0)
    console = Console()
    width = console.width
    while (needed := _rendered_width(console, table, width)) > width:
        width = needed
    Console(width=width).print(table)


def _rendered_width(console: Console, table: Table, width: int) -> int:
    """Of the table's longest line where `width` is offered."""
    lines = Segment.split_lines(console.render(table, console.options.update(width=width)))
    return max(map(Segment.get_line_length, lines))
