"""Scores of systems on pairs, and the tables of an evaluation."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from ...runtime.audio.features import mel_spectrogram
from ...runtime.audio.files import write_audio
from ...runtime.audio.resampling import resample
from ...runtime.audio.spec import COMOSVC_24K, FrontEnd
from ...runtime.storage import write_whole
from ..data.prepared import swift_f0
from . import measures
from .converters import ConverterUnderTest, EvaluationClip, Pair, Unconverted, file_name
from .outside import MEASURE_RATE, Compare, Embed, Missing, Recogniser

SPEC = COMOSVC_24K
"""Where mel and F0 of every system are taken, whatever its own front end is."""


@dataclass(frozen=True)
class Tools:
    """Measures that need more than numpy; each may be missing."""

    pesq: Compare | Missing
    stoi: Compare | Missing
    embed: Embed | Missing
    character_errors: Callable[[str, str], float] | Missing
    recogniser: Recogniser | None = None

    def missing(self) -> dict[str, str]:
        """By the measure's name, why it is not taken."""
        named = {"PESQ": self.pesq, "STOI": self.stoi, "SIM": self.embed}
        found = {name: tool.why for name, tool in named.items() if isinstance(tool, Missing)}
        if self.recogniser is None:
            found["CER"] = "not measured: give a speech recogniser: --recogniser 'program {wav}'"
        elif isinstance(self.character_errors, Missing):
            found["CER"] = self.character_errors.why
        return found


@dataclass(frozen=True)
class ClipScore:
    """One system on one pair; a figure that is missing or cannot be had is not in `figures`."""

    system: str
    clip: str
    target: str
    key: float
    figures: Mapping[str, float]


@dataclass
class Scorer:
    """Measures what comes out of systems. `voices` are the targets' own mean embeddings (D,) by name."""

    tools: Tools
    voices: Mapping[str, NDArray[np.float32]]
    referenced: bool
    """Whether the clip is what should come out."""
    _heard: dict[str, str] = field(default_factory=dict)

    def score(self, system: ConverterUnderTest, pair: Pair, keep: Path | None = None) -> ClipScore | None:
        """Convert and measure; `keep` is a folder to write the audio to. None where the system has nothing."""
        converted = system.convert(pair)
        if converted is None:
            return None
        audio, rate = converted
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            write_audio(keep / file_name(pair), np.clip(audio, -1.0, 1.0), rate, overwrite=True)
        melody = self._melody(audio, rate, pair)
        if isinstance(system, Unconverted):
            del melody["F0 RMSE"]  # without conversion it is the asked key
        figures = {**melody, **self._voice(audio, rate, pair.target)}
        if self.referenced:
            figures |= self._against_reference(audio, rate, pair.clip)
        if self.tools.recogniser is not None and not isinstance(self.tools.character_errors, Missing):
            heard = self.tools.recogniser(resample(audio, rate, MEASURE_RATE))
            figures["CER"] = self.tools.character_errors(heard, self._sung(pair.clip))
        present = {name: value for name, value in figures.items() if np.isfinite(value)}
        return ClipScore(system.name, pair.clip.id, pair.target, pair.key, present)

    def _melody(self, audio: NDArray[np.float32], rate: int, pair: Pair) -> dict[str, float]:
        wanted = f0(pair.clip.audio, pair.clip.rate) * 2.0 ** (pair.key / 12.0)
        found = f0(audio, rate)
        return {
            "FPC": measures.f0_pearson(found, wanted),
            "FPC voiced": measures.voiced_pearson(found, wanted),
            "F0 RMSE": measures.f0_rmse_cents(found, wanted),
        }

    def _voice(self, audio: NDArray[np.float32], rate: int, target: str) -> dict[str, float]:
        if isinstance(self.tools.embed, Missing) or target not in self.voices:
            return {}
        voice = self.tools.embed(resample(audio, rate, MEASURE_RATE))
        likeness = {name: measures.cosine(voice, centre) for name, centre in self.voices.items()}
        return {"SIM": likeness[target], "ID": float(max(likeness, key=likeness.__getitem__) == target)}

    def _against_reference(self, audio: NDArray[np.float32], rate: int, clip: EvaluationClip) -> dict[str, float]:
        estimate, truth = (
            mel_spectrogram(resample(a, r, SPEC.sample_rate), SPEC) for a, r in ((audio, rate), (clip.audio, clip.rate))
        )
        base = SPEC.mel_log_base
        figures = {
            "MCD": measures.mel_cepstral_distortion(estimate, truth, base),
            "mel L1": measures.mel_l1(estimate, truth, base),
        }
        ours, theirs = (resample(a, r, MEASURE_RATE) for a, r in ((audio, rate), (clip.audio, clip.rate)))
        n_samples = min(len(ours), len(theirs))
        for name, compare in (("PESQ", self.tools.pesq), ("STOI", self.tools.stoi)):
            if not isinstance(compare, Missing):
                figures[name] = compare(ours[:n_samples], theirs[:n_samples])
        return figures

    def _sung(self, clip: EvaluationClip) -> str:
        """The clip's text, or the recogniser's transcript of the clip where the text is unknown."""
        if clip.text:
            return clip.text
        assert self.tools.recogniser is not None
        if clip.id not in self._heard:
            self._heard[clip.id] = self.tools.recogniser(resample(clip.audio, clip.rate, MEASURE_RATE))
        return self._heard[clip.id]


def f0(audio: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    """F0 in Hz at the frames of `SPEC`, (T,), 0 = unvoiced."""
    return swift_f0(resample(audio, rate, SPEC.sample_rate), SPEC, FrontEnd())


def f0_median_hz(clips: Sequence[EvaluationClip]) -> float:
    """Median F0 of the voiced frames; NaN without any."""
    curve = np.concatenate([f0(clip.audio, clip.rate) for clip in clips])
    return float(np.median(curve[curve > 0])) if (curve > 0).any() else float("nan")


def mean_voice(clips: Sequence[EvaluationClip], embed: Embed) -> NDArray[np.float32]:
    """Mean of the embeddings of a singer's own clips, each of unit length, (D,)."""
    vectors = [embed(resample(clip.audio, clip.rate, MEASURE_RATE)) for clip in clips]
    return np.mean([vector / np.linalg.norm(vector) for vector in vectors], axis=0)


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
    "CER": "of the recogniser's transcript, against the text, or against the transcript of the source",
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
    write_whole(folder / "evaluation.md", "\n".join(as_markdown(r) for r in results).encode())
    write_whole(folder / "evaluation.json", f"{body}\n".encode())
