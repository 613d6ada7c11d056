"""Samples that callers pass in, mixing to mono, and resampling: whole, in blocks, and with a short delay."""

import os
from collections.abc import Iterator
from math import gcd
from typing import Any, Literal, get_args

import numpy as np
import soxr
from numpy.typing import NDArray

from ..errors import AudioError, OptionError, abridged, finite, one_of
from .frames import ceil_div

RATE_RANGE_HZ = (8_000, 192_000)
MAX_SAMPLE = 1e6
"""Largest magnitude of a sample, full scale being 1: 120 dB above it. Squares of much larger ones overflow float32."""
Channel = Literal["mid", "left", "right"]
CHANNELS: tuple[str, ...] = get_args(Channel)
"""Mono of a source with several channels: their mean, the first, or the second."""
OPPOSITE_PHASE = (
    "the channels are in opposite phase and would cancel each other in mono: the left one was taken "
    "(channel 'right' takes the other)"
)
CANCELLED_LIVE = (
    "the channels are in opposite phase and cancel each other in mono: make the stream with channel 'left' or 'right'"
)
_DTYPES = ("float32", "float64", "int16", "int32")
_FULL_SCALE = {"int16": 2.0**15, "int32": 2.0**31}
_MAX_CHANNELS = 64  # arrays with more have their axes swapped
_CANCELLED = 0.2
"""Limit for n times the power of the mean of n channels, as a share of their mean power: 1 for independent channels,
n for equal ones, 0 for opposite ones. Below it (-10 dB for two) mixing to mono destroys the sound."""
_PHASE_S = 10.0
"""Seconds of sound after which channels are known not to cancel each other."""
_CROSSINGS = 24
"""Zero crossings of the sinc on either side, counted at the lower rate: 1 ms at 24 kHz, 1.5 ms at 16 kHz."""
_CUTOFF = 0.91
"""Half amplitude, as a share of the lower rate's Nyquist frequency. The band is flat to 0.82 of it and 70 dB down
above it."""
_KAISER_BETA = 7.0
_AT_ONCE = 1024  # samples out; their rows of samples and weights fit a cache


def check_rate(sample_rate: Any) -> int:
    """`sample_rate`, also a float that is whole, as an int within 8 to 192 kHz. Raises `OptionError`."""
    rate, (low, high) = finite(sample_rate), RATE_RANGE_HZ
    if not rate.is_integer():
        raise OptionError(f"sample_rate must be a whole number of Hz, got {abridged(sample_rate)}")
    if not low <= rate <= high:
        raise OptionError(
            f"sample_rate is {abridged(sample_rate)} Hz; {low} to {high} Hz can be converted\nhint: resample it first"
        )
    return int(rate)


def check_channel(channel: Any) -> str:
    """`channel` if it is one of `CHANNELS`. Raises `OptionError`."""
    return one_of("channel", channel, CHANNELS)


def mono(audio: Any, what: str = "audio", first_sample: int = 0) -> NDArray[np.float32]:
    """`audio`, (L,), (L, channels) or (1, L), float32, float64, int16 or int32, as mono float32 (L,), full scale at 1.

    Channels are averaged. Raises `AudioError` for another shape or type, for no samples, and for NaN or Inf and
    samples beyond `MAX_SAMPLE`, whose place is counted from `first_sample`.
    """
    return take_channel(as_samples(audio, what), "mid", what, first_sample)


def mixed(audio: Any, channel: str) -> tuple[NDArray[np.float32], int, list[str]]:
    """Mono float32 (L,) of `channel` (see `CHANNELS`), the number of averaged channels, and warnings.

    Channels that would cancel each other are not averaged: the left one is taken.
    """
    samples = as_samples(audio, "audio")
    phase = PhaseMeter()
    if channel == "mid" and samples.ndim == 2:
        phase.add(samples)
    taken = "left" if phase.cancelled else channel
    n_mixed = samples.shape[1] if samples.ndim == 2 and taken == "mid" else 1
    return take_channel(samples, taken, "audio", 0), n_mixed, [OPPOSITE_PHASE] if phase.cancelled else []


def as_samples(audio: Any, what: str) -> NDArray[Any]:
    """`audio` as an array (L,) or (L, channels) of one of the accepted types. Raises `AudioError`."""
    if isinstance(audio, str | os.PathLike):
        raise AudioError(f"{what} is a path, {os.fspath(audio)!r}\nhint: convert_file(source, output) takes files")
    if np.ma.is_masked(audio):
        raise AudioError(f"{what} has masked samples\nhint: audio.filled(0.0) replaces them")
    try:
        samples = np.asarray(audio)
    except (ValueError, TypeError, RuntimeError) as error:  # ragged lists; tensors that need a gradient
        raise AudioError(f"{what} is no array of samples: {error}") from error
    if samples.dtype.newbyteorder("=").name not in _DTYPES:
        raise AudioError(
            f"{what} is {samples.dtype}; it must be {', '.join(_DTYPES[:-1])} or {_DTYPES[-1]}\n"
            "hint: audio.astype('float32'), with full scale at 1"
        )
    if samples.ndim not in (1, 2):
        raise AudioError(f"{what} has shape {samples.shape}; it must be (samples,) or (samples, channels)")
    if samples.ndim == 2 and samples.shape[0] == 1 and samples.shape[1] > 2:
        samples = samples[0]  # one channel, as torchaudio and librosa lay it out
    if samples.ndim == 2 and samples.shape[1] > _MAX_CHANNELS:
        raise AudioError(
            f"{what} has shape {samples.shape}, that is {samples.shape[1]} channels\nhint: transpose it: audio.T"
        )
    if samples.size == 0:
        raise AudioError(f"{what} is empty, shape {samples.shape}")
    return samples


def take_channel(samples: NDArray[Any], channel: str, what: str, first_sample: int) -> NDArray[np.float32]:
    """One channel of (L,) or (L, channels), or the mean of all, as float32 (L,). Raises `AudioError` as `mono` does."""
    scale = _FULL_SCALE.get(samples.dtype.newbyteorder("=").name, 1.0)
    with np.errstate(over="ignore", invalid="ignore"):  # Inf and NaN are reported below
        if samples.ndim == 2 and channel != "mid":
            samples = samples[:, min(CHANNELS.index(channel), samples.shape[1]) - 1]
        if samples.ndim == 2:
            signal = (samples.mean(axis=1, dtype=np.float64) / scale).astype(np.float32)
        else:
            signal = samples.astype(np.float32) / np.float32(scale)
        bad = np.flatnonzero(~(np.abs(signal) <= MAX_SAMPLE))
    if not len(bad):
        return signal
    if not np.isfinite(signal[bad]).all():
        bad = bad[~np.isfinite(signal[bad])]
        raise AudioError(
            f"{what} has {len(bad)} samples that are NaN or infinite, the first at sample {first_sample + bad[0]}\n"
            "hint: numpy.nan_to_num(audio) replaces them, but find out where they come from"
        )
    raise AudioError(
        f"{what} has {len(bad)} samples beyond {MAX_SAMPLE:g}, "
        f"the first at sample {first_sample + bad[0]} ({signal[bad[0]]:g}); full scale is 1\n"
        "hint: divide 16-bit integers by 2**15 and 32-bit ones by 2**31"
    )


class PhaseMeter:
    """Measures, block by block, if the mean of all channels cancels their sound."""

    def __init__(self) -> None:
        self._mean_power, self._power, self._n_sounding = 0.0, 0.0, 0

    def add(self, samples: NDArray[Any]) -> None:
        """Add the next block, (L, channels)."""
        with np.errstate(over="ignore", invalid="ignore"):  # such samples are reported by `take_channel`
            wide = samples.astype(np.float64)
            self._mean_power += samples.shape[1] * float(np.sum(np.square(wide.mean(axis=1))))
            power = np.square(wide).mean(axis=1)
            self._power += float(power.sum())
            self._n_sounding += int(np.count_nonzero(power))

    @property
    def cancelled(self) -> bool:
        return self._power > 0.0 and self._mean_power < _CANCELLED * self._power

    def is_sure(self, sample_rate: int) -> bool:
        """True after enough sound whose channels do not cancel each other."""
        return self._n_sounding > _PHASE_S * sample_rate and not self.cancelled


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


def half_length(from_rate: int, to_rate: int) -> int:
    """Samples on either side of an instant that its value is made from; 0 at equal rates."""
    return 0 if from_rate == to_rate else ceil_div(_CROSSINGS * from_rate, min(from_rate, to_rate))


class ShortResampler:
    """A stream of mono float32 from one rate to another, aligned; block sizes do not matter.

    Output n is the signal at instant n / to_rate, made from `half` samples on either side of it.
    """

    def __init__(self, from_rate: int, to_rate: int) -> None:
        common = gcd(from_rate, to_rate)
        self._up, self._down = to_rate // common, from_rate // common
        self.half = half_length(from_rate, to_rate)
        self._filters = _filters(self._up, self.half, _CUTOFF * min(1.0, to_rate / from_rate))
        self._held = np.zeros(self.half, np.float32)  # before the first sample there is silence
        self._first = -self.half  # position of `_held`
        self._pushed, self._given = 0, 0

    def push(self, audio: NDArray[np.float32], last: bool = False) -> NDArray[np.float32]:
        """The next samples in, those that are ready out; with `last` all that remain, ceil(L to_rate / from_rate)."""
        if not self.half:
            return audio
        self._pushed += len(audio)
        tail = np.zeros(self.half + 1 if last else 0, np.float32)
        self._held = np.concatenate((self._held, audio, tail))
        # Output n lies behind input sample floor(n down / up), and needs `half` more of them.
        end = ceil_div((self._pushed if last else max(0, self._pushed - self.half)) * self._up, self._down)
        if end <= self._given:
            return np.zeros(0, np.float32)
        wanted = np.arange(self._given, end, dtype=np.int64) * self._down
        before, phase = wanted // self._up, wanted % self._up
        views = np.lib.stride_tricks.sliding_window_view(self._held, 2 * self.half)
        first = before - self.half + 1 - self._first
        out = np.empty(len(wanted), np.float32)
        for start in range(0, len(wanted), _AT_ONCE):
            piece = slice(start, start + _AT_ONCE)
            out[piece] = np.einsum("nk,nk->n", views[first[piece]], self._filters[phase[piece]])
        self._given += len(wanted)
        keep = self._given * self._down // self._up - self.half + 1 - self._first
        self._held, self._first = self._held[keep:].copy(), self._first + keep
        return out


def _filters(up: int, half: int, cutoff: float) -> NDArray[np.float32]:
    """For each of `up` phases the weights of the samples from 1 - half to half around an instant, (up, 2 half)."""
    if not half:
        return np.zeros((0, 0), np.float32)
    offsets = np.arange(1 - half, half + 1) - np.arange(up)[:, None] / up
    squares = np.linspace(0.0, 1.0, 10_000)  # a rate without a common divisor has millions of weights, and i0 is slow
    window = np.i0(_KAISER_BETA * np.sqrt(1.0 - squares)) / np.i0(_KAISER_BETA)
    weights = np.sinc(cutoff * offsets) * np.interp((offsets / half) ** 2, squares, window)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
