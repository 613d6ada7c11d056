"""What a conversion gives back."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic

import numpy as np
from numpy.typing import NDArray

from .errors import ComosvcError

if TYPE_CHECKING:
    from typing_extensions import TypeVar  # with a default, as in `typing` from Python 3.13 on

    Samples = TypeVar("Samples", default=NDArray[np.float32])
else:
    from typing import TypeVar

    Samples = TypeVar("Samples")


@dataclass(frozen=True)
class Singer:
    """A singer of the bundle: median and range (5th to 95th percentile) of F0 in Hz (None: unknown),
    licence, credit.
    """

    name: str
    f0_median_hz: float | None
    f0_range_hz: tuple[float, float] | None
    licence: str
    credit: str


@dataclass(frozen=True)
class Options:
    """Options that reproduce a result. `singer` maps names to weights of sum 1."""

    voice: str
    singer: Mapping[str, float]
    key: float
    """Semitones up; the number found, where "auto" or "octave" was asked for."""
    seed: int
    steps: int
    latency: str
    provider: str
    precision: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Conversion(Generic[Samples]):
    """A converted clip."""

    audio: Samples
    """(L,) at `sample_rate`, as long as the input, within ±1. A `DeviceArray` if the input was on the GPU."""
    sample_rate: int
    f0_hz: NDArray[np.float32]
    """F0 of the output in Hz, (T,), 0 where unvoiced or silent."""
    mel: NDArray[np.float32]
    """Mel spectrogram given to the vocoder, (T, M), on the bundle's own scale (`Converter.spec`)."""
    timings_ms: Mapping[str, float]
    """resample, content, pitch, acoustic and vocoder with their noise and source, and total, which has everything."""
    options: Options
    warnings: tuple[str, ...]

    def __repr__(self) -> str:
        seconds = len(self.audio) / self.sample_rate  # pyright: ignore[reportArgumentType] - every array has a length
        return f"<Conversion {_facts(seconds, self.sample_rate, self.timings_ms, self.options, self.warnings)}>"


@dataclass(frozen=True, eq=False)
class FileConversion:
    """A converted file, or the error that kept it from being one."""

    source: Path
    output: Path | None
    seconds: float = 0.0
    sample_rate: int = 0
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    options: Options | None = None
    warnings: tuple[str, ...] = ()
    error: ComosvcError | None = None
    """None where `output` was written."""
    skipped: bool = False
    """`output` existed, and nothing was converted."""

    @property
    def rtf(self) -> float:
        """Real-time factor: processing time per second of audio."""
        return self.timings_ms.get("total", 0.0) / 1e3 / self.seconds if self.seconds else 0.0

    def __repr__(self) -> str:
        if self.options is None:
            why = "skipped" if self.error is None else f"{type(self.error).__name__}: {self.error}"
            return f"<FileConversion {str(self.source)!r}, {why}>"
        facts = _facts(self.seconds, self.sample_rate, self.timings_ms, self.options, self.warnings)
        return f"<FileConversion {str(self.source)!r} -> {str(self.output)!r}, {facts}>"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "source": str(self.source),
            "output": None if self.output is None else str(self.output),
            "seconds": round(self.seconds, 4),
            "sample_rate": self.sample_rate,
            "rtf": round(self.rtf, 5),
            "timings_ms": {name: round(value, 3) for name, value in self.timings_ms.items()},
            "options": None if self.options is None else self.options.as_dict(),
            "warnings": list(self.warnings),
            "skipped": self.skipped,
            "error": None if self.error is None else str(self.error),
        }


def _facts(
    seconds: float, rate: int, timings_ms: Mapping[str, float], options: Options, warnings: tuple[str, ...]
) -> str:
    singers = " + ".join(options.singer)
    took_s, found = (
        timings_ms.get("total", 0.0) / 1e3,
        f", {len(warnings)} warning{'s'[: len(warnings) - 1]}" if warnings else "",
    )
    where = f"{options.provider} {options.precision}"
    return f"{seconds:.2f} s at {rate} Hz, {singers}, key {options.key:+g}, in {took_s:.2f} s on {where}{found}"
