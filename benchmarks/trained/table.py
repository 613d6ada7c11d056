"""The table of the systems that were trained alike."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from ..metrics import Pooled
from ..report import Result, Table


@dataclass(frozen=True, kw_only=True)
class SystemRow:
    """A system with a way to sample it. A reference is not trained and has None for many figures."""

    title: str
    quality: Pooled
    """Over `quality.n` conversions."""
    evaluations: int | None = None
    """Of the network for one clip."""
    parameters: int | None = None
    """Of the acoustic stage, that conversion uses."""
    training_cpu_s: float | None = None
    """Processor seconds by the plan, as if nothing else ran; a student's include its teacher's."""
    spent_cpu_s: float | None = None
    """Processor seconds that the same steps took in fact."""
    acoustic_rtf: float | None = None
    """Processor seconds per second of audio, from content, F0, loudness and singer to the mel; median."""
    chain_rtf: float | None = None
    """With the front end and the vocoder, which all systems share."""


@dataclass(frozen=True, kw_only=True)
class SystemsTable(Result):
    """A run of `comosvc-bench systems-quality`."""

    kind: ClassVar[str] = "systems-quality"
    rows: tuple[SystemRow, ...]
    conditions: dict[str, Any]
    """Equal for all: budget, steps, data, vocoder."""
    details: dict[str, Any] = field(default_factory=dict)

    def table(self) -> Table:
        return Table(
            title="quality against speed: trained alike, at the demo's size",
            heads=_COLUMNS,
            rows=tuple(map(cells, self.rows)),
            note="L1 of the log-mel to the target singer's own rendering over the unconverted source's, of the mel and "
            "of the audio; smoothed over 9 frames; texture over the truth's, 1 is right. RTF: processor seconds per "
            "second of audio on one core, torch in fp32. The flow's decoder paints mels, for the vocoder that all "
            "share.",
        )


_COLUMNS = (
    "system", "evaluations", "M param.", "training CPU s (spent)", "L1 rel.", "L1 audio", "smoothed",
    "texture mel, audio", "F0 gross", "F0 RMSE", "singer", "RTF acoustic", "RTF chain", "n",
)  # fmt: skip


def cells(row: SystemRow) -> tuple[str, ...]:
    """A row in words, in the order of the columns; empty where it has no such figure."""
    quality = row.quality
    return (
        row.title,
        _shown(row.evaluations, "d"),
        _shown(None if row.parameters is None else row.parameters / 1e6, ".2f"),
        _shown(row.training_cpu_s, ".0f") + ("" if row.spent_cpu_s is None else f" ({row.spent_cpu_s:.0f})"),
        f"{quality.relative_l1:.3f}",
        f"{quality.relative_l1_audio:.3f}",
        f"{quality.relative_smoothed_l1:.3f}",
        f"{quality.texture:.2f}, {quality.texture_audio:.2f}",
        f"{100.0 * quality.f0.gross:.2f} %",
        f"{quality.f0.rmse_cents:.1f} cents",
        f"{100.0 * quality.identified:.0f} %",
        _shown(row.acoustic_rtf, ".4f"),
        _shown(row.chain_rtf, ".3f"),
        str(quality.n),
    )


def _shown(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
