"""Resampling for live use: a plain windowed sinc that waits for a millisecond or two.

soxr computes in blocks of its own: its stream holds 36 to 84 ms back, more than everything else of a live conversion.
"""

from math import gcd

import numpy as np
from numpy.typing import NDArray

from .framing import ceil_div

_CROSSINGS = 24
"""Zero crossings of the sinc on either side, counted at the lower rate: 1 ms at 24 kHz, 1.5 ms at 16 kHz."""
_CUTOFF = 0.91
"""Half amplitude, as a share of the lower rate's Nyquist frequency. With this window the band is flat to 0.82 of it,
and what lies above it is down by 70 dB."""
_KAISER_BETA = 7.0
_AT_ONCE = 1024  # samples out, each with a row of samples and one of weights: what fits a cache


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
