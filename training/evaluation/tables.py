"""Tables like the paper's, from scores."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.table import Table
from rich.text import Text

from ...runtime.storage import replacing
from .score import Score

RECONSTRUCTION, CONVERSION = "reconstruction", "conversion"
_COLUMNS = {
    RECONSTRUCTION: ("FPC", "PESQ", "CER", "SIM", "FPC voiced", "F0 RMSE", "STOI", "MCD", "mel L1", "ID"),
    CONVERSION: ("SIM", "CER", "FPC", "FPC voiced", "F0 RMSE", "ID"),
}
_UNITS = {
    "CER": ("%", 100.0),
    "ID": ("%", 100.0),
    "F0 RMSE": ("cents", 1.0),
    "MCD": ("dB", 1.0),
    "mel L1": ("nepers", 1.0),
}
_TITLES = {
    RECONSTRUCTION: "reconstruction: clips to their own singer",
    CONVERSION: "conversion: clips to other singers",
}
_LEGEND = {
    "FPC": "correlation of F0 with that of the source, unvoiced frames as 0",
    "FPC voiced": "the same over frames voiced in both",
    "F0 RMSE": "over frames voiced in both, octave errors included",
    "PESQ": "wide band, against the clip",
    "STOI": "against the clip",
    "MCD": "of 13 mel cepstra without the level, against the clip",
    "mel L1": "of the log-mel, against the clip",
    "SIM": "cosine to the mean of the target's own clips",
    "ID": "share of outputs that lie nearer to the target than to any other singer",
    "CER": "of what the recogniser hears, against the text, or against what it hears in the source",
}

_NAME_WIDTH = 24
"""Columns of a terminal that are kept for the systems' names and the frame."""


@dataclass(frozen=True)
class Results:
    """What one command measured."""

    task: str
    data: str
    systems: Mapping[str, int | None]
    """Evaluations of the denoiser by system, where known."""
    scores: Sequence[Score]
    missing: Mapping[str, str]
    """Measures that were not taken, and why."""
    embedding: str = ""

    @property
    def columns(self) -> list[str]:
        """Measures that at least one score has, in the order of the paper's table and then ours."""
        taken = set().union(*(score.figures for score in self.scores))
        return [name for name in _COLUMNS[self.task] if name in taken]

    def rows(self) -> list[tuple[str, str, str, list[str]]]:
        """System, its evaluations, its number of clips, and its means by column."""
        return [self._row(system, steps) for system, steps in self.systems.items()]

    def _row(self, system: str, steps: int | None) -> tuple[str, str, str, list[str]]:
        own = [score for score in self.scores if score.system == system]
        means = []
        for name in self.columns:
            values = [score.figures[name] for score in own if name in score.figures]
            means.append(f"{np.mean(values) * _UNITS.get(name, ('', 1.0))[1]:.3f}" if values else "–")
        return system, "–" if steps is None else str(steps), str(len(own)), means

    @property
    def headings(self) -> list[str]:
        """With units."""
        return [f"{name} {_UNITS[name][0]}" if name in _UNITS else name for name in self.columns]

    @property
    def notes(self) -> list[str]:
        """What the columns are, and what is not measured and why."""
        named = {**_LEGEND, **({"SIM": f"{_LEGEND['SIM']}, by {self.embedding}"} if self.embedding else {})}
        wanted = _COLUMNS[self.task]
        return [f"{name}: {named[name]}" for name in self.columns] + [
            f"{name}: {why}" for name, why in self.missing.items() if name in wanted
        ]


def as_tables(results: Results, width: int) -> list[Table | Text]:
    """For a terminal of `width` columns: a title, as many tables as it takes to show every figure whole, and notes."""
    rows = [(system, [steps, clips, *means]) for system, steps, clips, means in results.rows()]
    headings = [heading.replace(" ", "\n") for heading in ("NFE", "clips", *results.headings)]
    sizes = [
        max(map(len, [*heading.split(), *(cells[i] for _, cells in rows)])) + 3 for i, heading in enumerate(headings)
    ]
    tables, first = [], 0
    while first < len(headings):
        last = first + 1
        while last < len(headings) and sum(sizes[first : last + 1]) <= width - _NAME_WIDTH:
            last += 1
        table = Table()
        table.add_column("system", overflow="fold")
        for heading in headings[first:last]:
            table.add_column(heading, justify="right", no_wrap=True)
        for system, cells in rows:
            table.add_row(Text(system), *cells[first:last])
        tables.append(table)
        first = last
    title, notes = f"{_TITLES[results.task]} ({results.data})", "\n".join(results.notes)
    return [Text(title, style="italic"), *tables, Text(notes, style="dim italic")]


def as_markdown(results: Results) -> str:
    """For a file."""
    lines = [f"### {_TITLES[results.task]} ({results.data})", ""]
    lines.append("| system | NFE | clips | " + " | ".join(results.headings) + " |")
    lines.append("|---" * (3 + len(results.headings)) + "|")
    lines += [f"| {s} | {n} | {c} | " + " | ".join(means) + " |" for s, n, c, means in results.rows()]
    return "\n".join([*lines, "", *(f"- {note}" for note in results.notes), ""])


def write_results(results: Sequence[Results], folder: Path) -> None:
    """`evaluation.md` and `evaluation.json` in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    body = json.dumps([asdict(r) for r in results], indent=1, ensure_ascii=False)
    texts = {"evaluation.md": "\n".join(as_markdown(r) for r in results), "evaluation.json": body + "\n"}
    for name, text in texts.items():
        with replacing(folder / name) as partial:
            partial.write_text(text, "utf-8")
