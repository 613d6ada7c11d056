"""The published speeds (Lu et al. 2024, arXiv 2401.01792, Table 3) beside ours, and growth of cost."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..report import Table
from .results import SpeedReport, Timing, VariantKey

PAPER_SCOPE = "embeddings to mel only, one RTX 4090"
MEL_STAGES = ("condition", "acoustic")
"""The stages from embeddings to the mel, or to the flow's latent."""
STUDENT, OURS = "comosvc-authors", "comosvc"


@dataclass(frozen=True)
class Published:
    """A row of Table 3 and the systems here that it is held against; None where there is none."""

    name: str
    nfe: int
    rtf: float | None
    on_its_own: str
    on_20x512: str | None
    """The paper's number of evaluations, on CoMoSVC's network."""


TABLE_3 = (
    Published("SoVITS-Flow", 1, 0.008, "sovits-flow", None),
    Published("SoVITS-Diff", 1000, 2.978, "sovits-diff-1000", "sovits-diff-1000-20x512"),
    Published("DiffSVC", 100, 0.278, "diffsvc", "diffsvc-20x512"),
    Published("Teacher", 50, 0.148, "comosvc-teacher", "comosvc-teacher"),
    Published("CoMoSVC", 1, 0.006, STUDENT, STUDENT),
)
_BASE_RTF = 0.006
_THIS_SDK = Published("CoMoSVC, this SDK", 1, None, OURS, OURS)


@dataclass(frozen=True)
class _Mel:
    """The mel stage of a system, whole."""

    rtf: float
    evaluations: int
    extrapolated: bool


def paper_table(report: SpeedReport, engine: str, precision: str, cell: tuple[int, int, float]) -> Table | None:
    """Table 3 beside the mel stage here: with each system's own network, and all on CoMoSVC's.

    Ours, which does not run in torch, is taken in ONNX Runtime there. None where no sampler of many steps was measured.
    A figure that was not measured is an empty cell.
    """
    mel = _mel_stages(report, engine, precision, cell)
    if not {published.on_its_own for published in TABLE_3 if published.nfe > 1} & set(mel):
        return None
    threads, batch, seconds = cell
    return Table(
        title=f"the paper's Table 3, and the mel stage here: {engine} {precision}, {seconds:g} s, batch {batch}, "
        f"{threads} thread(s)",
        heads=(
            *("method", "paper: NFE", "RTF", "× CoMoSVC"),
            *("here, its own network: NFE", "RTF", "× CoMoSVC"),
            *("here, on 20 × 512: NFE", "RTF", "× CoMoSVC"),
        ),
        rows=tuple(_row(published, mel) for published in (*TABLE_3, _THIS_SDK)),
        note=f"The paper's figures are {PAPER_SCOPE}: no content encoder, no F0, no vocoder. Here too only what leads "
        "from embeddings to the mel, or to the flow's latent, is counted. × CoMoSVC: over the authors' student. "
        "* timed in part and scaled.",
    )


def _mel_stages(report: SpeedReport, engine: str, precision: str, cell: tuple[int, int, float]) -> dict[str, _Mel]:
    parts: dict[str, list[Timing]] = {}
    for row in report.rows:
        fits = row.cell == cell and row.precision == precision and row.singers is None
        wanted = "onnx" if row.system == OURS and engine == "torch" else engine
        if fits and row.stage in MEL_STAGES and row.engine == wanted:
            parts.setdefault(row.system, []).append(row)
    return {
        system: _Mel(
            rtf=sum(row.rtf for row in rows),
            evaluations=max(row.evaluations for row in rows),
            extrapolated=any(row.extrapolated for row in rows),
        )
        for system, rows in parts.items()
    }


def _row(published: Published, mel: Mapping[str, _Mel]) -> tuple[str, ...]:
    said = published.rtf
    cells = ["", "", ""] if said is None else [str(published.nfe), f"{said:g}", f"{said / _BASE_RTF:.3g}"]
    student = mel.get(STUDENT)
    for system in (published.on_its_own, published.on_20x512):
        here = mel.get(system or "")
        if here is None:
            cells += ["", "", ""]
            continue
        ratio = "" if student is None else f"{here.rtf / student.rtf:.3g}"
        cells += [str(here.evaluations), f"{here.rtf:.3g}{'*' if here.extrapolated else ''}", ratio]
    return (published.name, *cells)


WORSE_THAN_LINEAR = 1.05
"""An exponent above this is flagged; the rest is room for noise."""
SLOWER = 1.0
"""More threads that are slower than one are flagged."""


@dataclass(frozen=True)
class Scaling:
    """Median seconds of a system at several values of one quantity, everything else fixed."""

    key: VariantKey
    against: str
    """"length", "batch", "threads" or "singers"."""
    fixed: str
    values: tuple[float, ...]
    median_s: tuple[float, ...]

    @property
    def exponent(self) -> float:
        """b of the least-squares fit seconds = a * value^b: 1 is linear, -1 is what threads can give at best."""
        return float(np.polyfit(np.log(self.values), np.log(self.median_s), 1)[0])

    @property
    def flag(self) -> str:
        """Empty where all is well."""
        if self.against == "threads":
            return "more threads are slower" if self.median_s[-1] > SLOWER * self.median_s[0] else ""
        return "worse than linear" if self.exponent > WORSE_THAN_LINEAR else ""


def find_scalings(report: SpeedReport) -> list[Scaling]:
    """Of every whole chain, along every quantity that it was measured at two values of or more."""
    rows = report.totals()
    own = [row for row in rows if row.singers is None]
    return [
        *_along(own, "length", lambda r: r.seconds, lambda r: f"batch {r.batch}, {r.threads} thread(s)"),
        *_along(own, "batch", lambda r: r.batch, lambda r: f"{r.seconds:g} s, {r.threads} thread(s)"),
        *_along(own, "threads", lambda r: r.threads, lambda r: f"{r.seconds:g} s, batch {r.batch}"),
        *_along(
            [row for row in rows if row.singers is not None],
            "singers",
            lambda r: r.singers or 1,
            lambda r: f"{r.seconds:g} s, batch {r.batch}, {r.threads} thread(s)",
        ),
    ]


def _along(
    rows: Sequence[Timing], against: str, value: Callable[[Timing], float], fixed: Callable[[Timing], str]
) -> list[Scaling]:
    groups: dict[tuple[VariantKey, str], list[Timing]] = {}
    for row in rows:
        key = VariantKey(row.system, row.engine, row.precision)
        groups.setdefault((key, fixed(row)), []).append(row)
    found = []
    for (key, where), members in groups.items():
        members = sorted(members, key=value)
        if len({value(row) for row in members}) > 1:
            seconds = tuple(row.median_s for row in members)
            found.append(Scaling(key, against, where, tuple(value(row) for row in members), seconds))
    return found
