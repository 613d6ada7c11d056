"""The arguments of a conversion, checked once, before any work."""

import operator
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .bundle import Bundle
from .errors import OptionError
from .voices import FOUND_KEYS, Voice, check_key, voice_of

Latency = Literal["default", "low"]
Key = float | Literal["auto", "octave"]
"""Semitones up, or what brings the song's median F0 to the singer's."""
LATENCIES: tuple[str, ...] = get_args(Latency)
PIECE_S = 4.0
"""Length of what a graph computes at a time: long against the context that is computed twice, short in memory.

At the authors' size 3 to 4 s take the least time per second, in ONNX Runtime and OpenVINO alike: pieces of 8 s up to a
tenth more in the student, of 1 s up to a fifth.
"""
_HIGHEST_F0_SHARE = 0.4  # of the sample rate: a pulse train has no second harmonic there


@dataclass(frozen=True, eq=False)
class Request:
    """What to convert to.

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
    """The time that each stage took to find the key; None where it was given."""
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
    if latency not in LATENCIES:
        raise OptionError(f"unknown latency {latency!r}; known: {', '.join(LATENCIES)}")
    voice = voice_of(bundle, singer)
    key_or_none, schedule = check_key(key, voice), _schedule(bundle, steps)
    step = FOUND_KEYS[str(key)] if key_or_none is None else 1
    return Request(voice, key_or_none, _check_seed(seed), schedule, low_latency=latency == "low", key_step=step)


def with_tracks(
    request: Request, f0_hz: ArrayLike | None, noise: ArrayLike | None, shape: tuple[int, int], sample_rate: int
) -> Request:
    """`request` with a given F0 (T,) and noise (T, M); `shape` is (T, M). Raises `OptionError`."""
    if f0_hz is not None:
        f0_hz = _track("f0_hz", f0_hz, shape[:1])
        check_f0(f0_hz, request.key or 0.0, sample_rate)
        request = replace(request, f0_hz=f0_hz)
    if noise is not None:
        request = replace(request, noise=_track("noise", noise, shape))
    return request


def check_f0(f0_hz: NDArray[np.float32], key: float, sample_rate: int) -> None:
    """That a voice at `sample_rate` can sing this `key` semitones up. Raises `OptionError`."""
    highest = _HIGHEST_F0_SHARE * sample_rate / 2.0 ** (max(0.0, key) / 12.0)
    if f0_hz.min() < 0.0 or f0_hz.max() > highest:
        raise OptionError(
            f"f0_hz goes from {f0_hz.min():.1f} to {f0_hz.max():.1f} Hz; "
            f"it must be 0 (unvoiced) to {highest:.0f} Hz at this key"
        )


def _track(name: str, values: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float32]:
    array = np.asarray(values)
    if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
        raise OptionError(f"{name} is {array.dtype} {array.shape}; it must be finite numbers {shape}")
    if array.shape != shape:
        raise OptionError(
            f"{name} has shape {array.shape}; it must be {shape}\nhint: T is Converter.frames(len(audio), sample_rate)"
        )
    return array.astype(np.float32)


def _check_seed(seed: Any) -> int:
    try:
        number = operator.index(seed)
    except TypeError:
        number = -1
    if not 0 <= number < 2**64:
        raise OptionError(f"seed is {seed!r}; it must be a whole number from 0 to 2^64 - 1")
    return number


def _schedule(bundle: Bundle, steps: Any) -> tuple[int, ...]:
    model = bundle.manifest.model
    steps = model.usual_steps if steps is None else steps
    if isinstance(steps, bool) or not isinstance(steps, int | np.integer) or steps not in model.step_counts:
        raise OptionError(f"steps is {steps!r}; this voice can do {', '.join(map(str, model.step_counts))}")
    return model.schedules.get(str(steps), ())
