"""The arguments of a conversion, checked once, before any work."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .arguments import one_of, whole_number
from .bundle import Bundle
from .errors import OptionError
from .text import abridged
from .voices import FOUND_KEYS, Voice, check_key, voice_of

Latency = Literal["default", "low"]
Key = float | Literal["auto", "octave"]
"""Semitones up, or the name of a key to find, which brings the song's median F0 to the singer's."""
LATENCIES: tuple[str, ...] = get_args(Latency)
PIECE_S = 4.0
"""Length of what a graph computes at a time: long against the context that is computed twice, short in memory.

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

    voice: Voice
    key: float | None
    seed: int
    schedule: tuple[int, ...] = ()
    f0_hz: NDArray[np.float32] | None = None
    """F0 of the source at each mel frame, (T,), in place of the pitch graph's."""
    noise: NDArray[np.float32] | None = None
    """Noise of the first step, (T, M), in place of what `seed` gives."""
    key_step: int = 1
    found_in_ms: Mapping[str, float] | None = None
    """Milliseconds of each stage for finding the key; None for a given key."""
    piece_s: float = PIECE_S
    at_once: int = 1
    """Pieces that may be computed at the same time."""
    low_latency: bool = False
    """By the rules of a stream: see `low_latency`."""

    @property
    def steps(self) -> int:
        return 1 + len(self.schedule)


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
