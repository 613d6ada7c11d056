"""Percentiles of a song's F0 in constant memory."""

import numpy as np
from numpy.typing import NDArray

_LOWEST_HZ = 20.0
_BINS_PER_OCTAVE = 120  # 10 cents
_OCTAVES = 8


class PitchStatistics:
    """A histogram of log-F0 that frames are added to as they come."""

    def __init__(self) -> None:
        self._counts = np.zeros(_BINS_PER_OCTAVE * _OCTAVES, np.int64)

    def add(self, f0_hz: NDArray[np.float32]) -> None:
        """Count the voiced frames (F0 above 0) of (T,)."""
        octaves = np.log2(np.maximum(f0_hz[f0_hz > 0.0], _LOWEST_HZ).astype(np.float64) / _LOWEST_HZ)
        bins = np.minimum((octaves * _BINS_PER_OCTAVE).astype(int), len(self._counts) - 1)
        self._counts += np.bincount(bins, minlength=len(self._counts))

    @property
    def voiced_frames(self) -> int:
        return int(self._counts.sum())

    def percentile_hz(self, share: float) -> float:
        """F0 below which `share` (0 to 1) of the voiced frames lie, to 5 cents. There must be voiced frames."""
        cumulative = np.cumsum(self._counts)
        index = int(np.searchsorted(cumulative, share * cumulative[-1]))
        return float(_LOWEST_HZ * 2.0 ** ((index + 0.5) / _BINS_PER_OCTAVE))
