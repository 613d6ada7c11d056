"""Report on the material: hours, F0 and loudness of each singer, and dropped clips with reasons."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from ...runtime.audio.spec import AudioSpec
from ...runtime.storage import write_whole
from .datasets import MIN_SONGS_TO_VALIDATE, Dropped, Material
from .prepared import FeatureIndex, PreparedClip, PreparedSinger

REPORT = "report.json"
SPLITS = ("train", "valid", "test")
_BARS = " ▁▂▃▄▅▆▇█"
_NOTES = ("C", "C♯", "D", "D♯", "E", "F", "F♯", "G", "G♯", "A", "A♯", "B")
_NOTES_TO_A_BAR = 2


@dataclass(frozen=True)
class Measured:
    """A clip that is used."""

    entry: PreparedClip
    voiced_hz: NDArray[np.float32]
    """F0 of the voiced frames, (V,)."""
    voiced_db: NDArray[np.float32]
    """Their loudness, dB below a full-scale square wave, (V,)."""
    peak: float
    """Peak of the clip before `PrepareConfig.peak` is applied."""


def singer_entry(
    facts: dict[str, Any], clips: Sequence[Measured], index: int | None, spec: AudioSpec
) -> PreparedSinger:
    """The index's entry of a singer whose clips these are."""
    f0_hz = np.concatenate([clip.voiced_hz for clip in clips])
    low, median, high = np.percentile(f0_hz, (5, 50, 95)).tolist()
    minutes = sum(clip.entry.frames for clip in clips if clip.entry.split == "train") / spec.frame_rate_hz / 60
    return PreparedSinger(**facts, index=index, minutes=minutes, f0_median_hz=median, f0_range_hz=(low, high))


def f0_histogram(f0_hz: NDArray[np.float32], frame_rate_hz: float) -> dict[str, float]:
    """Seconds sung near each note, by name from the lowest to the highest that occurs: "A4" is 440 Hz ± 50 cents."""
    notes = np.rint(69.0 + 12.0 * np.log2(f0_hz / 440.0)).astype(int)
    lowest, highest = int(notes.min()), int(notes.max())
    counts = np.bincount(notes - lowest, minlength=highest - lowest + 1) / frame_rate_hz
    names = [f"{_NOTES[midi % 12]}{midi // 12 - 1}" for midi in range(lowest, highest + 1)]
    return {name: round(float(seconds), 2) for name, seconds in zip(names, counts, strict=True)}


def describe(
    features: FeatureIndex, measured: Sequence[Measured], dropped: Sequence[Dropped], material: Material
) -> dict[str, Any]:
    """The report as JSON takes it."""
    rate = features.audio.frame_rate_hz
    frames = {split: sum(clip.frames for clip in features.select(split)) for split in SPLITS}
    clips = {name: [m for m in measured if m.entry.singer == name] for name in features.singers}
    not_held_out = [name for name in features.trained_singers if not any(m.entry.split == "valid" for m in clips[name])]
    return {
        "hours": {split: n / rate / 3600 for split, n in frames.items()},
        "singers": {name: _describe_singer(features.singers[name], own, rate) for name, own in clips.items()},
        "not_held_out": not_held_out,
        "files_of_one_song": {name: joined for name in not_held_out if (joined := _joined(material, name))},
        "same_recording": _same_recording(measured),
        "dropped_by_reason": _by_reason(d.reason for d in dropped if not d.in_part),
        "dropped": [{"clip": d.id, "reason": d.reason} for d in dropped if not d.in_part],
        "used_in_part": [{"clip": d.id, "reason": d.reason} for d in dropped if d.in_part],
    }


def _joined(material: Material, singer: str) -> dict[str, int]:
    """Number of files of each song of the singer that has several."""
    files = Counter(recording.song for recording in material.recordings if recording.singer == singer)
    return {song: n for song, n in files.items() if n > 1}


def _same_recording(measured: Sequence[Measured]) -> dict[str, str]:
    """Clip to the clip before it that has the same audio."""
    first: dict[str, str] = {}
    return {m.entry.id: of for m in measured if (of := first.setdefault(m.entry.key, m.entry.id)) != m.entry.id}


def _describe_singer(singer: PreparedSinger, clips: Sequence[Measured], frame_rate_hz: float) -> dict[str, Any]:
    f0_hz = np.concatenate([clip.voiced_hz for clip in clips])
    loudness_db = np.concatenate([clip.voiced_db for clip in clips])
    frames = Counter[str]()
    songs: dict[str, set[str]] = {}
    for clip in clips:
        frames[clip.entry.split] += clip.entry.frames
        songs.setdefault(clip.entry.split, set()).add(clip.entry.song)
    return {
        "train_minutes": round(singer.minutes, 2),
        "hours": {split: round(n / frame_rate_hz / 3600, 4) for split, n in frames.items()},
        "songs": {split: len(songs[split]) for split in SPLITS if split in songs},
        "clips": len(clips),
        "f0_median_hz": round(singer.f0_median_hz, 1),
        "f0_range_hz": [round(f, 1) for f in singer.f0_range_hz],
        "f0_histogram_s": f0_histogram(f0_hz, frame_rate_hz),
        "loudness_db": dict(
            zip(("p5", "median", "p95"), np.percentile(loudness_db, (5, 50, 95)).round(1).tolist(), strict=True)
        ),
        "peak_db": round(float(20.0 * np.log10(max(clip.peak for clip in clips))), 1),
    }


def _by_reason(reasons: Iterable[str]) -> dict[str, int]:
    """Count of each kind of reason, the most frequent first."""
    return dict(Counter(map(_kind, reasons)).most_common())


def _kind(reason: str) -> str:
    """A reason without its values and its hint."""
    return re.split(r" \(|:|\n|, the first at", re.sub(r"\b\d+ samples", "samples", reason))[0]


def write_report(
    features: FeatureIndex, measured: Sequence[Measured], dropped: Sequence[Dropped], material: Material
) -> Path:
    """Write `report.json` beside the features."""
    path = features.folder / REPORT
    body = json.dumps(describe(features, measured, dropped, material), indent=1, ensure_ascii=False)
    write_whole(path, body.encode("utf-8", "backslashreplace"))
    return path


def report_tables(folder: Path) -> list[Table | Text]:
    """`report.json` of the features in `folder` for a terminal of 80 columns or more."""
    report = json.loads((folder / REPORT).read_text("utf-8"))
    shown = [_singers_table(report), _notes_table(report), *(Text(line) for line in _remarks(report))]
    titles = {"dropped": "dropped", "used_in_part": "used all the same"}
    return shown + [_reasons_table(title, report[key]) for key, title in titles.items() if report[key]]


def _reasons_table(title: str, clips: Sequence[dict[str, str]]) -> Table:
    """The reasons without their values, the most frequent first, each with its first clip."""
    table = Table("clips", title=title, title_justify="left")
    table.add_column("why, for example", overflow="fold")
    for reason, count in _by_reason(d["reason"] for d in clips).items():
        example = next(d["clip"] for d in clips if _kind(d["reason"]) == reason)
        table.add_row(str(count), Text(f"{reason}: {example}"))
    return table


def _singers_table(report: dict[str, Any]) -> Table:
    hours = ", ".join(f"{split} {hours:.3g} h" for split, hours in report["hours"].items() if hours)
    table = Table(title=f"singers: {hours}", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("singer", overflow="fold")
    for name in ("train\nmin", "valid\nmin", "songs", "clips", "F0 Hz\n5–50–95 %", "loudness\ndB", "peak\ndB"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, singer in report["singers"].items():
        low, high = singer["f0_range_hz"]
        level = singer["loudness_db"]
        table.add_row(
            Text(name),
            f"{singer['train_minutes']:.1f}",
            f"{singer['hours'].get('valid', 0.0) * 60:.1f}",
            " + ".join(str(n) for n in singer["songs"].values()),
            str(singer["clips"]),
            f"{low:.0f}–{singer['f0_median_hz']:.0f}–{high:.0f}",
            f"{level['p5']:.0f}…{level['p95']:.0f}",
            f"{singer['peak_db']:.1f}",
        )
    return table


def _notes_table(report: dict[str, Any]) -> Table:
    table = Table(title="notes sung", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("singer", overflow="fold")
    table.add_column("from the lowest to the highest", overflow="fold")
    for name, singer in report["singers"].items():
        table.add_row(Text(name), _sketch(singer["f0_histogram_s"]))
    return table


def _remarks(report: dict[str, Any]) -> list[str]:
    """Remarks on material that training or validation uses in a less obvious way."""
    lines = []
    if names := ", ".join(report["not_held_out"]):
        lines.append(
            f"no song held out: {names}. It takes {MIN_SONGS_TO_VALIDATE} songs of a singer, and evaluate needs some "
            "that were not trained on."
        )
    for name, songs in report["files_of_one_song"].items():
        counted = ", ".join(f"{n} files are the song {song}" for song, n in songs.items())
        lines.append(
            f"{name}: {counted}. Files of one folder, or whose names differ in a number at the end only, are one song."
        )
    if same := report["same_recording"]:
        clip, of = next(iter(same.items()))
        lines.append(
            f"{len(same)} clips have the audio of another one (for example {clip}, that of {of}). Songs that share a "
            "recording count as one song."
        )
    return lines


def _sketch(histogram: dict[str, float]) -> str:
    """The histogram in a line of text: lowest note, a bar for each two notes, highest note."""
    names, seconds = list(histogram), list(histogram.values())
    bars = [sum(seconds[i : i + _NOTES_TO_A_BAR]) for i in range(0, len(seconds), _NOTES_TO_A_BAR)]
    top = max(bars)
    drawn = "".join(_BARS[round(bar / top * (len(_BARS) - 1))] for bar in bars)
    return f"{names[0]} {drawn} {names[-1]}"
