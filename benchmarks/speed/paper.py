"""The published speeds (Lu et al. 2024, arXiv 2401.01792, Table 3) and what the same parts take here."""

from dataclasses import dataclass

from .grid import Grid
from .results import SpeedReport, Timing

PAPER_SCOPE = "embeddings to mel only, one RTX 4090"
TEACHER, STUDENT, OURS = "comosvc-teacher", "comosvc-authors", "comosvc"


@dataclass(frozen=True)
class Published:
    """A row of Table 3. `evaluations` of a network of CoMoSVC's size; None for the flow, which has none."""

    name: str
    system: str
    nfe: int
    rtf: float
    is_diffusion: bool = True


TABLE_3 = (
    Published("SoVITS-Flow", "sovits-flow", 1, 0.008, is_diffusion=False),
    Published("SoVITS-Diff", "sovits-diff", 1000, 2.978),
    Published("DiffSVC", "diffsvc", 100, 0.278),
    Published("Teacher", TEACHER, 50, 0.148),
    Published("CoMoSVC", STUDENT, 1, 0.006),
)


def paper_grid(report: SpeedReport, engine: str, precision: str, cell: tuple[int, int, float]) -> Grid | None:
    """Table 3 beside the mel stage here: each system as it comes, and all on CoMoSVC's own network.

    None where no mel stage of those systems was measured. A figure that was not measured is an empty cell.
    """
    mel = {
        row.system: row
        for row in report.rows
        if row.stage == "acoustic"
        and row.cell == cell
        and row.precision == precision
        and row.singers is None
        and (row.engine == engine or row.system == OURS)
    }
    if not {published.system for published in TABLE_3} & set(mel):
        return None
    per_evaluation = _per_evaluation(mel)
    ours = Published("CoMoSVC, this SDK", OURS, 1, TABLE_3[-1].rtf)
    rows = [_row(published, mel, per_evaluation, said=True) for published in TABLE_3]
    rows.append(_row(ours, mel, per_evaluation, said=False))
    threads, batch, seconds = cell
    return Grid(
        title=f"the paper's Table 3, and the mel stage here: {engine} {precision}, {seconds:g} s, batch {batch}, "
        f"{threads} thread(s)",
        heads=(
            *("method", "NFE", "paper: RTF", "paper: × CoMoSVC"),
            *("here, as each comes: RTF", "× CoMoSVC", "here, all on 20 × 512: RTF", "× CoMoSVC"),
        ),
        rows=tuple(rows),
        note=f"The paper's figures are {PAPER_SCOPE}: no content encoder, no F0, no vocoder. Here too only the stage "
        "that gives the mel, or for the flow the latent, is counted. All on 20 × 512: one measured evaluation of "
        "CoMoSVC's network times NFE. * timed in part and scaled.",
    )


def _per_evaluation(mel: dict[str, Timing]) -> float | None:
    """RTF of one evaluation of the 20 x 512 network; of the teacher's where it was measured, which averages many."""
    row = mel.get(TEACHER) or mel.get(STUDENT)
    return None if row is None else row.rtf / row.evaluations


def _row(published: Published, mel: dict[str, Timing], per_evaluation: float | None, said: bool) -> tuple[str, ...]:
    here, student = mel.get(published.system), mel.get(STUDENT)
    same = per_evaluation * published.nfe if per_evaluation is not None and published.is_diffusion and said else None
    base = TABLE_3[-1].rtf
    return (
        published.name,
        str(published.nfe),
        f"{published.rtf:g}" if said else "",
        f"{published.rtf / base:.3g}" if said else "",
        _figure(here.rtf if here else None) + ("*" if here and here.extrapolated else ""),
        _figure(here.rtf / student.rtf if here and student else None),
        _figure(same),
        _figure(same / per_evaluation if same is not None and per_evaluation else None),
    )


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
