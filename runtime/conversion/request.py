"""Options of a conversion, checked before any work, and its results."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import ComosvcError, OptionError, abridged, one_of, whole_number
from ..voice.bundle import Bundle
from ..voice.singers import FOUND_KEYS, SingerMix, check_key, voice_of

if TYPE_CHECKING:
    from typing_extensions import TypeVar  # with a default, as in `typing` from Python 3.13 on

    Samples = TypeVar("Samples", default=NDArray[np.float32])
else:
    from typing import TypeVar

    Samples = TypeVar("Samples")


@dataclass(frozen=True)
class Options:
    """Options that reproduce a result. `singer` maps names to weights of sum 1."""

    voice: str
    singer: Mapping[str, float]
    key: float
    """Semitones up; for "auto" and "octave" the number found."""
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


Latency = Literal["default", "low"]
Key = float | Literal["auto", "octave"]
"""Semitones up, or the name of a key to find, which brings the song's median F0 to the singer's."""
LATENCIES: tuple[str, ...] = get_args(Latency)
PIECE_S = 4.0
"""Length of a piece in one graph call: long against the context that is computed twice, short in memory.

At the authors' size 3 to 4 s take the least time per second, in ONNX Runtime and OpenVINO alike: pieces of 8 s up to a
tenth more in the student, of 1 s up to a fifth.
"""
_HIGHEST_F0_SHARE = 0.4  # of the sample rate: a pulse train has no second harmonic there

_LARGEST_NOISE = 100.0  # far beyond any draw of normal numbers; with 1e20 a graph gives NaN


@dataclass(frozen=True, eq=False)
class Request:
    """The target of a conversion.

    `key` None: found from the song, a multiple of `key_step` semitones. `schedule`: the step index of each step after
    the first.
    """

    voice: SingerMix
    key: float | None
    seed: int
    schedule: tuple[int, ...] = ()
    f0_hz: NDArray[np.float32] | None = None
    """F0 of the source at each mel frame, (T,), in place of the pitch graph's."""
    noise: NDArray[np.float32] | None = None
    """Noise of the first step, (T, M), in place of the seed's."""
    key_step: int = 1
    found_in_ms: Mapping[str, float] | None = None
    """Milliseconds of each stage for finding the key; None for a given key."""
    piece_s: float = PIECE_S
    at_once: int = 1
    """Pieces that may be computed at the same time."""
    low_latency: bool = False
    """As a stream: see `low_latency`."""

    @property
    def steps(self) -> int:
        return 1 + len(self.schedule)

    @property
    def f0_ratio(self) -> np.float32:
        """Factor from the source's F0 to the result's; the key must be known."""
        assert self.key is not None
        return np.float32(2.0 ** (self.key / 12.0))


def make_request(
    bundle: Bundle,
    singer: str | Mapping[str, float] | None,
    key: float | str,
    seed: int,
    steps: int | None,
    latency: str,
) -> Request:
    """Check the arguments that all conversions share. `steps` None: the voice's own number. Raises `OptionError`."""
    one_of("latency", latency, LATENCIES)
    voice = voice_of(bundle, singer)
    key_or_none, schedule = check_key(key, voice), _schedule(bundle, steps)
    step = FOUND_KEYS[str(key)] if key_or_none is None else 1
    return Request(
        voice,
        key_or_none,
        whole_number("seed", seed, 0, 2**64 - 1),
        schedule,
        low_latency=latency == "low",
        key_step=step,
    )


def with_tracks(
    request: Request, f0_hz: ArrayLike | None, noise: ArrayLike | None, shape: tuple[int, int], sample_rate: int
) -> Request:
    """`request` with a given F0 (T,) and noise (T, M); `shape` is (T, M). Raises `OptionError`."""
    if f0_hz is not None:
        f0_hz = _track("f0_hz", f0_hz, shape[:1])
        check_f0(f0_hz, request.key or 0.0, sample_rate)
        request = replace(request, f0_hz=f0_hz)
    if noise is not None:
        request = replace(request, noise=_check_noise(_track("noise", noise, shape)))
    return request


def check_f0(f0_hz: NDArray[np.float32], key: float, sample_rate: int) -> None:
    """Check that a voice at `sample_rate` can render `f0_hz` (T,) `key` semitones up. Raises `OptionError`."""
    highest = _HIGHEST_F0_SHARE * sample_rate / 2.0 ** (max(0.0, key) / 12.0)
    if f0_hz.min() < 0.0 or f0_hz.max() > highest:
        raise OptionError(
            f"f0_hz goes from {f0_hz.min():.1f} to {f0_hz.max():.1f} Hz; "
            f"it must be 0 (unvoiced) to {highest:.0f} Hz at this key"
        )


def _check_noise(noise: NDArray[np.float32]) -> NDArray[np.float32]:
    largest = np.abs(noise).max()
    if largest > _LARGEST_NOISE:
        raise OptionError(
            f"noise goes up to {largest:g}; it must be within {_LARGEST_NOISE:g} of 0 (deviation 1 is usual)"
        )
    return noise


def _track(name: str, values: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float32]:
    try:
        array = np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:  # ragged lists; tensors that need a gradient
        raise OptionError(f"{name} is no array of numbers: {error}") from error
    if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
        raise OptionError(f"{name} is {array.dtype} {array.shape}; it must be finite numbers {shape}")
    if array.shape != shape:
        raise OptionError(
            f"{name} has shape {array.shape}; it must be {shape}\nhint: T is Converter.frames(len(audio), sample_rate)"
        )
    with np.errstate(over="ignore"):  # infinite values are refused below
        return array.astype(np.float32)


def _schedule(bundle: Bundle, steps: Any) -> tuple[int, ...]:
    model = bundle.manifest.model
    steps = model.usual_steps if steps is None else steps
    if isinstance(steps, bool) or not isinstance(steps, int | np.integer) or steps not in model.step_counts:
        raise OptionError(f"steps is {abridged(steps)}; this voice can do {', '.join(map(str, model.step_counts))}")
    return model.schedules.get(str(steps), ())
