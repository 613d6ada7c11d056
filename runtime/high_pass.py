"""A causal high-pass filter in blocks, which removes an offset exactly."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

_BLOCK, _BLOCKS = 128, 16
"""Samples of a row of a matrix product, and rows of a product."""


class HighPass:
    """A stream of mono float32 through a Chebyshev filter of type II; block sizes do not matter.

    Up to `stop_hz` the gain is at most -`stop_db` and 0 at 0 Hz. With an order of 5 and 30 dB, or 7 and 45 dB, it is
    -3 dB at 1.37, -0.3 dB at 1.7 and 0 from 2.5 times `stop_hz` on. `order` is odd, so that one of the zeros lies at
    0 Hz. The first sample counts as having lasted for ever, so that a constant gives zeros from the start.
    """

    def __init__(self, rate: int, stop_hz: float, order: int = 5, stop_db: float = 30.0) -> None:
        self._of_samples, self._of_state, self._states = _responses(rate, stop_hz, order, stop_db)
        self._state = np.zeros(order + 1)
        self._held, self._given = np.zeros(0), 0  # samples of the incomplete product; of them, those that were returned
        self._offset: np.float64 | None = None

    def push(self, audio: NDArray[np.float32]) -> NDArray[np.float32]:
        """Filter the next samples (n,); (n,) float32."""
        if not len(audio):
            return audio
        if self._offset is None:
            self._offset = np.float64(audio[0])
        size = _BLOCK * _BLOCKS
        signal = np.concatenate((self._held, audio - self._offset))
        out = np.empty(len(signal), np.float32)
        for start in range(0, len(signal), size):
            # Always a product of one shape, padded with zeros: in other shapes its sums may differ in the last bit.
            piece = np.zeros(size)
            count = min(size, len(signal) - start)
            piece[:count] = signal[start : start + count]
            filtered, state = self._filter(piece)
            out[start : start + count] = filtered[:count]
            if count == size:
                self._state = state
        given, left = self._given, len(signal) % size
        self._held, self._given = signal[len(signal) - left :], left
        return out[given:]

    def _filter(self, signal: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """`signal` (2048,) filtered from the current state on, and the state after it."""
        found = signal.reshape(_BLOCKS, _BLOCK) @ self._of_samples
        added = np.concatenate((self._state, found[:, _BLOCK:].ravel()))
        states = (added @ self._states).reshape(_BLOCKS + 1, len(self._state))
        return (found[:, :_BLOCK] + states[:-1] @ self._of_state).ravel(), states[-1]


@cache
def _responses(rate: int, stop_hz: float, order: int, stop_db: float) -> tuple[NDArray[np.float64], ...]:
    """Matrices (to be multiplied from the left by rows) for blocks of 128 samples; a state has n = order + 1 numbers.

    What a block's samples add to its output and to the state behind it, (128, 128 + n); what the state before it adds
    to its output, (n, 128); and what a first state and 16 blocks add to the states before, between and behind the
    blocks, (n + 16 n, 17 n).
    """
    b, a = _sections(rate, stop_hz, order, stop_db)
    n_states = order + 1
    cases = _BLOCK + n_states
    signal, states = np.zeros((cases, _BLOCK)), np.zeros((cases, len(b), 2))
    signal[:_BLOCK] = np.eye(_BLOCK)
    states[_BLOCK:] = np.eye(n_states).reshape(n_states, len(b), 2)
    for n in range(_BLOCK):
        for k in range(len(b)):
            x = signal[:, n].copy()
            y = b[k, 0] * x + states[:, k, 0]
            states[:, k, 0] = b[k, 1] * x - a[k, 1] * y + states[:, k, 1]
            states[:, k, 1] = b[k, 2] * x - a[k, 2] * y
            signal[:, n] = y
    found = np.concatenate((signal, states.reshape(cases, n_states)), axis=1)
    step = found[_BLOCK:, _BLOCK:]
    powers = [np.linalg.matrix_power(step, k) for k in range(_BLOCKS + 1)]
    passed = np.zeros((_BLOCKS + 1, n_states, _BLOCKS + 1, n_states))
    for start in range(_BLOCKS + 1):
        for end in range(start, _BLOCKS + 1):
            passed[start, :, end] = powers[end - start]
    return found[:_BLOCK], found[_BLOCK:, :_BLOCK], passed.reshape((_BLOCKS + 1) * n_states, -1)


def _sections(rate: int, stop_hz: float, order: int, stop_db: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Numerators and denominators, (n / 2, 3) each, of the filter as sections of second order, by the bilinear
    transform. `scipy.signal.cheby2(order, stop_db, stop_hz, "high", fs=rate)` is the same filter.
    """
    angles = np.pi * np.arange(1, order + 1, 2) / (2 * order)  # of one pole in each pair
    mu = np.arcsinh(np.sqrt(10.0 ** (stop_db / 10.0) - 1.0)) / order
    edge = np.tan(np.pi * stop_hz / rate)
    poles = edge * (-np.sinh(mu) * np.sin(angles) + 1j * np.cosh(mu) * np.cos(angles))
    zeros = 1j * edge * np.cos(angles)
    b, a = np.zeros((len(angles), 3)), np.zeros((len(angles), 3))
    for k in range(len(angles)):
        for out, root in ((b, zeros[k]), (a, poles[k])):
            root = (1.0 + root) / (1.0 - root)
            last = 2 * k + 1 == order  # the pole and the zero that have no twin
            out[k] = [1.0, -root.real, 0.0] if last else [1.0, -2.0 * root.real, abs(root) ** 2]
        b[k] *= (a[k] @ [1, -1, 1]) / (b[k] @ [1, -1, 1])  # gain 1 at the Nyquist frequency
    return b, a
