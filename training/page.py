"""An HTML page of players, pictures and figures that needs nothing but itself: no network, no other file."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

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
