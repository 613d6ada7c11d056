"""Quality of systems beside their speed: figures that come from elsewhere."""

import json
from dataclasses import dataclass
from pathlib import Path

from .charts import QualityPoint
from .results import ResultError, SpeedReport


@dataclass(frozen=True)
class SystemQuality:
    """What was measured, in words, and each system's figure."""

    measure: str
    of_system: dict[str, float]


def read_quality(path: Path) -> SystemQuality:
    """`{"measure": "F0 correlation", "systems": {"comosvc-authors": 0.94, ...}}`. Raises `ResultError`."""
    try:
        body = json.loads(path.read_text("utf-8"))
        return SystemQuality(str(body["measure"]), {str(k): float(v) for k, v in body["systems"].items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ResultError(
            f"{path} has no quality of systems: {type(error).__name__}: {error}\n"
            'hint: {"measure": "what the figure is", "systems": {"comosvc-authors": 0.94}}, with the ids of the speed '
            "results"
        ) from error


def points(report: SpeedReport, quality: SystemQuality, cell: tuple[int, int, float]) -> list[QualityPoint]:
    """The fastest row of each system whose quality is known, at one size. A system without either has no point."""
    fastest: dict[str, float] = {}
    for row in report.totals():
        if row.cell == cell and row.singers is None and row.system in quality.of_system:
            fastest[row.system] = min(row.rtf, fastest.get(row.system, row.rtf))
    return [QualityPoint(system, rtf, quality.of_system[system]) for system, rtf in fastest.items()]
