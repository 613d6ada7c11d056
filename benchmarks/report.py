"""Results of benchmarks: one file format, one table, one provenance, and tables inside Markdown files."""

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape as plain
from rich.segment import Segment
from rich.table import Table as TerminalTable
from rich.text import Text

from ..runtime import __version__
from ..runtime.conversion.cores import usable_cores
from ..runtime.errors import ComosvcError
from ..runtime.storage import MismatchError, decode, encode, reason, write_whole

FORMAT = 2
_VERSIONS_OF = ("numpy", "onnxruntime", "soxr", "soundfile", "torch")
_DECISIVE_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
_SAME = ("cpu", "cores", "os", "flags", "isa_limit", "gpu")
_ISA_LIMIT = "ONEDNN_MAX_CPU_ISA"
"""Limits the instruction sets of OpenVINO and of oneDNN in torch; ONNX Runtime has no such switch."""


class ResultError(ComosvcError):
    """A file of results cannot be used, or shown where it was asked for."""


class OtherKindError(ResultError):
    """A JSON file of another kind than those that were asked for."""


def machine_facts(device: str = "cpu") -> dict[str, Any]:
    """Processor with its decisive instruction sets, usable cores, memory, operating system, and GPU if one is used."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text("utf-8").splitlines() if cpuinfo.is_file() else []
    known = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    flags = known.get("flags", "").split()
    facts: dict[str, Any] = {
        "cpu": known.get("model name") or platform.processor(),
        "cores": usable_cores(),
        "os": f"{platform.system()} {platform.machine()}",
        "flags": [flag for flag in _DECISIVE_FLAGS if flag in flags],
    }
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", ()):
        facts["memory_gb"] = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9)
    if _ISA_LIMIT in os.environ:
        facts["isa_limit"] = os.environ[_ISA_LIMIT]
    if device == "cuda":
        import torch

        facts |= {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    return facts


def is_same_machine(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """True if figures of two machines may be compared."""
    return all(a.get(name) == b.get(name) for name in _SAME)


def machine_in_words(facts: Mapping[str, Any]) -> str:
    """`machine_facts` in one line."""
    flags = f" ({' '.join(facts['flags'])})" if facts.get("flags") else ""
    memory = f", {facts['memory_gb']} GB" if "memory_gb" in facts else ""
    limit = f", {_ISA_LIMIT}={facts['isa_limit']}" if facts.get("isa_limit") else ""
    gpu = f", {facts['gpu']}, CUDA {facts['cuda']}" if facts.get("gpu") else ""
    return f"{facts['cpu']}{flags}, {facts['cores']} cores{memory}, {facts['os']}{limit}{gpu}"


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Command, machine, versions and commit of a measurement."""

    command: str
    machine: dict[str, Any]
    versions: dict[str, str]
    commit: str | None

    @classmethod
    def here(cls, command: str, device: str = "cpu") -> "Provenance":
        """Of a measurement by this process."""
        return cls(
            command=command, machine=machine_facts(device), versions=installed_versions(), commit=current_commit()
        )

    def __str__(self) -> str:
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return f"`{self.command}` at commit {self.commit}, on {machine_in_words(self.machine)}; {versions}."


def installed_versions() -> dict[str, str]:
    """Versions of Python and of the packages that figures depend on, as far as installed."""
    found = {"comosvc": __version__, "python": platform.python_version()}
    for name in _VERSIONS_OF:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def current_commit() -> str | None:
    """Commit of the checkout that holds this file, with `+` if it was changed since; None outside a checkout."""
    try:
        commit = _git("rev-parse", "--short=12", "HEAD")
        return commit + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments: str) -> str:
    command = ["git", "-C", Path(__file__).parent, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def typed_command() -> str:
    """The command line of this process, which reproduces a result; `comosvc bench …` is written `comosvc-bench …`."""
    arguments = sys.argv[1:]
    return shlex.join(["comosvc-bench", *(arguments[1:] if arguments[:1] == ["bench"] else arguments)])


@dataclass(frozen=True)
class Table:
    """A table of words; the first column names a row. A cell without a measurement is empty."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def for_terminal(self) -> TerminalTable:
        table = TerminalTable(title=plain(self.title), caption=plain(self.note) or None, title_justify="left")
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
    """Print a table no narrower than its longest words, so that no figure is broken."""
    shown = table.for_terminal()
    for column in shown.columns:
        cells = (Text.from_markup(str(cell)).plain for cell in (column.header, *column.cells))
        column.min_width = max((cell_len(word) for cell in cells for word in cell.split()), default=0)
    console = Console()
    width = console.width
    while (needed := _rendered_width(console, shown, width)) > width:
        width = needed
    Console(width=width).print(shown)


def _rendered_width(console: Console, table: TerminalTable, width: int) -> int:
    """Width of the table's longest line if `width` is offered."""
    lines = Segment.split_lines(console.render(table, console.options.update(width=width)))
    return max(map(Segment.get_line_length, lines))


@dataclass(frozen=True, kw_only=True)
class Result:
    """Content of a results file. Subclasses add `rows`, dataclasses, and what else their kind needs."""

    kind: ClassVar[str]
    provenance: Provenance

    @property
    def note(self) -> str:
        """The provenance in words, with what disturbed the measurement."""
        return str(self.provenance)


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
        """True if the goal is reached; None without a goal or without a value."""
        if self.value is None or (self.at_least is None and self.at_most is None):
            return None
        above = self.at_least is None or self.value >= self.at_least
        return above and (self.at_most is None or self.value <= self.at_most)

    @property
    def goal(self) -> str:
        """The goal in words; empty without one."""
        if self.at_least is not None and self.at_most is not None:
            return f"{self.at_least:g}–{self.at_most:g}{self._unit}"
        if self.at_least is not None:
            return f"≥ {self.at_least:g}{self._unit}"
        return f"≤ {self.at_most:g}{self._unit}" if self.at_most is not None else ""

    @property
    def shown(self) -> str:
        """The value to three digits with its unit; empty if not measured."""
        return "" if self.value is None else f"{self.value:.3g}{self._unit}"

    @property
    def verdict(self) -> str:
        """pass, miss, or empty."""
        return {True: "pass", False: "miss", None: ""}[self.met]

    @property
    def _unit(self) -> str:
        return f" {self.unit}" if self.unit else ""


@dataclass(frozen=True, kw_only=True)
class Figures(Result):
    """Figures, some with goals: quality of a voice, speed of training, vocoders."""

    kind: ClassVar[str] = "figures"
    rows: tuple[Row, ...]
    voice: dict[str, Any]
    details: dict[str, Any] = field(default_factory=dict)
    """Figures that the rows were pooled from."""

    @property
    def title(self) -> str:
        name = self.voice.get("name", "figures")
        how = " ".join(self.voice[fact] for fact in ("provider", "precision") if fact in self.voice)
        return f"quality of {name}{', ' + how if how else ''}" if "one_step" in self.details else name

    def table(self) -> Table:
        rows = tuple((row.what, row.shown, row.goal, row.verdict, row.note) for row in self.rows)
        return Table(self.title, ("what", "measured", "goal", "", "on"), rows)


R = TypeVar("R", bound=Result)


def save(result: Result, path: Path) -> None:
    """Write a result, all or nothing. Rows that have a `derived()` carry it for readers; `load` leaves it out."""
    body = {"kind": result.kind, "format": FORMAT, **encode(result)}
    for row, entry in zip(getattr(result, "rows", ()), body.get("rows", ()), strict=True):
        if hasattr(row, "derived"):
            entry["derived"] = row.derived()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, (json.dumps(body, indent=1, ensure_ascii=False) + "\n").encode())


def load(path: Path, kinds: Sequence[type[R]]) -> R:
    """Read the result that `save` wrote. Raises `ResultError`, `OtherKindError` for a kind that is not in `kinds`."""
    try:
        body = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ResultError(f"{path} is no result of comosvc-bench: it cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ResultError(f"{path} is no result of comosvc-bench: it is not JSON: {error}") from error
    body = body if isinstance(body, dict) else {}
    name = body.pop("kind", body.get("what", "unknown"))
    kind = next((kind for kind in kinds if kind.kind == name), None)
    if kind is None:
        wanted = ", ".join(kind.kind for kind in kinds)
        raise OtherKindError(f"{path} is of another kind ({name}); results of comosvc-bench wanted here: {wanted}")
    if (version := body.pop("format", None)) != FORMAT:
        raise ResultError(f"{path} ({name}) has format {version}; this reads {FORMAT}\nhint: measure it again")
    try:
        for row in body.get("rows", ()):
            row.pop("derived", None)
        return decode(kind, body, path.name)
    except (AttributeError, MismatchError, TypeError) as error:
        raise ResultError(f"{path} is damaged: {error}") from error


def check_writable(path: Path | None) -> None:
    """Before hours of measuring. Raises `ResultError` if results cannot be written to `path`."""
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


def markers(name: str, command: str) -> tuple[str, str]:
    """The lines before and after a table in a Markdown file."""
    return f"<!-- {name}: written by comosvc-bench {command} --readme -->", f"<!-- /{name} -->"


QUALITY, SPEED, SUMMARY = markers("quality", "quality"), markers("speed", "report"), markers("summary", "report")


def check_readme(readme: Path, between: tuple[str, str]) -> None:
    """Before measuring. Raises `ResultError` unless the file has both markers, once and in order."""
    _split(readme, *between)


def into_readme(readme: Path, between: tuple[str, str], body: str) -> None:
    """Put `body` between the two markers of a file. Raises `ResultError` unless each is there once."""
    before, after = _split(readme, *between)
    try:
        write_whole(readme, f"{before}{between[0]}\n{body}\n{between[1]}{after}".encode())
    except OSError as error:
        raise ResultError(f"{readme} cannot be written: {reason(error)}") from error


def _split(path: Path, begin: str, end: str) -> tuple[str, str]:
    """The text before `begin` and after `end`."""
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
