"""Tables of an evaluation, and an HTML page of players, pictures and figures."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path

import numpy as np
from rich.table import Table
from rich.text import Text

from ...runtime.storage import replacing
from .scores import ClipScore

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
    scores: Sequence[ClipScore]
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


_POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #222 }
h1 { font-size: 1.4rem; margin-bottom: 0 } .note, figcaption small, th { color: #666 }
table { border-collapse: collapse; margin: 1.5rem 0; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .8rem; text-align: right; border-bottom: 1px solid #ddd; font-weight: normal }
th:first-child, td:first-child { text-align: left }
figure { margin: 0 0 1.8rem } figcaption { font-weight: 600; margin-bottom: .3rem }
img { width: 100%; height: 160px; display: block; image-rendering: auto } audio { width: 100%; margin-top: .4rem }
.verdict { font-size: 1.1rem }
.frame { position: relative; margin: 0 1.5rem 1.3rem 4.5rem }
.hz, .s { position: absolute; color: #666; font-size: .75rem; line-height: 1; white-space: nowrap }
.hz { right: 100%; margin-right: .3rem; transform: translateY(50%) }
.s { top: 100%; margin-top: .25rem; transform: translateX(-50%) }
 .at { position: absolute; top: 0; bottom: 0; width: 2px; background: #fff; left: 0 }
"""
_SCRIPT = """
const sameSong = (a, b) => !a.dataset.otherSong && !b.dataset.otherSong;
const players = [...document.querySelectorAll("audio")];
for (const player of players) {
  const at = player.parentElement.querySelector(".at");
  player.addEventListener("play", () => {
    for (const other of players) if (other !== player && !other.paused) {
      if (sameSong(player, other)) player.currentTime = other.currentTime;
      other.pause();
    }
  });
  player.addEventListener("timeupdate", () => {
    at.style.left = 100 * player.currentTime / player.duration + "%";
  });
}
"""
_LABEL_HEIGHT = 0.09
"""Height of a frequency label, as a share of the picture's height."""
_TIME_STEPS_S, _MOST_TIMES = (0.5, 1, 2, 5, 10, 30, 60), 12


@dataclass(frozen=True)
class Entry:
    """A row of the page; `audio` and `picture` are data URIs."""

    name: str
    note: str
    audio: str
    picture: str
    figures: Mapping[str, float]
    seconds: float
    """Duration of the picture."""
    kind: str = ""
    """Kind of entry, for `verdict`; not shown."""
    other_song: bool = False
    """True for another song than that of the other entries; its player starts from the beginning."""


def page(
    title: str,
    note: str,
    entries: Sequence[Entry],
    legend: Mapping[str, str],
    *,
    verdict: str = "",
    ticks: Sequence[tuple[str, float]] = (),
) -> str:
    """The page. `legend` explains each figure, in the order of the columns; `verdict` stands above all; `ticks` are the
    labels of the frequency axis with their height, 0 to 1.
    """
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
<h1>{escape(title)}</h1>
<p class="verdict">{escape(verdict)}</p>
<p class="note">{escape(note)}. The blue line is the pitch. A player goes on where the last one
stopped.</p>
{_table(entries, legend)}
{"".join(_figure(entry, ticks) for entry in entries)}
<script>{_SCRIPT}</script>
</body>
</html>
"""


def _table(entries: Sequence[Entry], legend: Mapping[str, str]) -> str:
    heads = "".join(f'<th title="{escape(what)}">{escape(name)}</th>' for name, what in legend.items())
    rows = "".join(
        f"<tr><td>{escape(entry.name)}</td>{''.join(_cell(entry.figures.get(name)) for name in legend)}</tr>"
        for entry in entries
        if entry.figures
    )
    notes = "".join(f"<li>{escape(name)}: {escape(what)}</li>" for name, what in legend.items())
    return f'<table><tr><th></th>{heads}</tr>{rows}</table>\n<ul class="note">{notes}</ul>'


def _cell(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "<td>–</td>"
    return f"<td>{value:.0f}</td>" if abs(value) >= 1000 else f"<td>{value:.3g}</td>"


def _figure(entry: Entry, ticks: Sequence[tuple[str, float]]) -> str:
    song = ' data-other-song="1"' if entry.other_song else ""
    return f"""<figure>
<figcaption>{escape(entry.name)} <small>{escape(entry.note)}</small></figcaption>
<div class="frame"><img alt="mel spectrogram with F0" src="{entry.picture}">{_axes(entry.seconds, ticks)}
<div class="at"></div></div>
<audio controls preload="metadata" src="{entry.audio}"{song}></audio>
</figure>
"""


def _axes(seconds: float, ticks: Sequence[tuple[str, float]]) -> str:
    """Labels in Hz at the left and in seconds below."""
    step = next((step for step in _TIME_STEPS_S if seconds / step <= _MOST_TIMES), _TIME_STEPS_S[-1])
    times = [count * step for count in range(int(seconds / step) + 1)]
    hz, lowest_free = [], -1.0
    for label, height in ticks:
        if height >= lowest_free:
            hz.append(f'<span class="hz" style="bottom:{100 * height:.2f}%">{escape(label)}</span>')
            lowest_free = height + _LABEL_HEIGHT
    return "".join([*hz, *(f'<span class="s" style="left:{100 * t / seconds:.2f}%">{t:g} s</span>' for t in times)])
