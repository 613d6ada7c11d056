"""Samples: what callers may pass in, mixing to mono, and resampling that gives the same whole and in blocks."""

import operator
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

from .errors import AudioError, OptionError

RATE_RANGE_HZ = (8_000, 192_000)
_DTYPES = ("float32", "float64", "int16")
_MAX_CHANNELS = 64  # more than that is an array with its axes swapped
_INT16_FULL_SCALE = 32_768.0


def check_rate(sample_rate: Any) -> int:
    """`sample_rate`, also a float that is whole, as an int within 8 to 192 kHz. Raises `OptionError`."""
    try:
        rate = operator.index(sample_rate)
    except TypeError:
        if not (isinstance(sample_rate, float | np.floating) and sample_rate.is_integer()):
            raise OptionError(f"sample_rate must be a whole number of Hz, got {sample_rate!r}") from None
        rate = int(sample_rate)
    low, high = RATE_RANGE_HZ
    if not low <= rate <= high:
        raise OptionError(f"sample_rate is {rate} Hz; {low} to {high} Hz can be converted\nhint: resample it first")
    return rate


def mono(audio: Any, what: str = "audio", first_sample: int = 0) -> NDArray[np.float32]:
    """`audio`, (L,) or (L, channels), float32, float64 or int16, as mono float32 (L,) with full scale at 1.

    Channels are averaged. Raises `AudioError` for another shape or type, for no samples, and for NaN or Inf, whose
    place is counted from `first_sample`.
    """
    if isinstance(audio, str | os.PathLike):
        raise AudioError(f"{what} is a path, {os.fspath(audio)!r}\nhint: convert_file(source, output) takes files")
    samples = np.asarray(audio)
    if samples.dtype.name not in _DTYPES:
        raise AudioError(
            f"{what} is {samples.dtype}; it must be {', '.join(_DTYPES[:-1])} or {_DTYPES[-1]}\n"
            "hint: audio.astype('float32'), with full scale at 1"
        )
    if samples.ndim not in (1, 2):
        raise AudioError(f"{what} has shape {samples.shape}; it must be (samples,) or (samples, channels)")
    if samples.ndim == 2 and samples.shape[1] > _MAX_CHANNELS:
        raise AudioError(f"{what} has shape {samples.shape}, that is {samples.shape[1]} channels\nhint: transpose it")
    if samples.size == 0:
        raise AudioError(f"{what} is empty, shape {samples.shape}")
    scale = _INT16_FULL_SCALE if samples.dtype == np.int16 else 1.0
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes Inf, which the next lines report
        if samples.ndim == 2:
            signal = (samples.mean(axis=1, dtype=np.float64) / scale).astype(np.float32)
        else:
            signal = samples.astype(np.float32) / np.float32(scale)
    bad = np.flatnonzero(~np.isfinite(signal))
    if len(bad):
        raise AudioError(
            f"{what} has {len(bad)} samples that are NaN or infinite, the first at sample {first_sample + bad[0]}\n"
            "hint: numpy.nan_to_num(audio) replaces them, but find out where they come from"
        )
    return signal


class Resampler:
    """A stream of mono float32 from one rate to another (soxr, high quality), aligned; block sizes do not matter."""

    def __init__(self, from_rate: int, to_rate: int) -> None:
        same = from_rate == to_rate
        self._stream = None if same else soxr.ResampleStream(from_rate, to_rate, 1, dtype="float32", quality="HQ")

    def push(self, audio: NDArray[np.float32], last: bool = False) -> NDArray[np.float32]:
        """The next samples in, those that are ready out; with `last` all that remain."""
        if self._stream is None:
            return audio
        return self._stream.resample_chunk(np.ascontiguousarray(audio), last=last)


def resample(audio: NDArray[np.float32], from_rate: int, to_rate: int) -> NDArray[np.float32]:
    """`audio` (L,) at `from_rate` as (round(L * to_rate / from_rate),): the resampler of every conversion."""
    return Resampler(from_rate, to_rate).push(audio, last=True)


def blocks(audio: NDArray[np.float32], length: int) -> Iterator[tuple[NDArray[np.float32], bool]]:
    """`audio` in pieces of `length` samples, each with whether it is the last."""
    for start in range(0, len(audio), length):
        yield audio[start : start + length], start + length >= len(audio)
