"""F0 as CoMoSVC's authors and so-vits-svc find it: WORLD's DIO and StoneMask, then numpy, and a loop in Python."""

import numpy as np
from numpy.typing import NDArray

F0_RANGE_HZ = (50.0, 1100.0)


def world_f0(audio: NDArray[np.float64], sample_rate: int, hop_length: int) -> NDArray[np.float64]:
    """F0 (T,) in Hz of audio (L,), T = L // hop_length, with straight lines through what is unvoiced; 0 if all is.

    Every value is rounded to 0.1 Hz by itself, as in the originals. Needs the package `pyworld`.
    """
    import pyworld

    low, high = F0_RANGE_HZ
    period_ms = 1000.0 * hop_length / sample_rate
    rough, times = pyworld.dio(audio, sample_rate, f0_floor=low, f0_ceil=high, frame_period=period_ms)
    found = pyworld.stonemask(audio, rough, times, sample_rate)
    for index, value in enumerate(found):
        found[index] = round(value, 1)
    return through_unvoiced(resized(found, len(audio) // hop_length))


def resized(f0_hz: NDArray[np.float64], n_frames: int) -> NDArray[np.float64]:
    """`n_frames` values on straight lines between those given; a line that touches an unvoiced value is unvoiced."""
    known = np.where(f0_hz < 1e-3, np.nan, f0_hz)
    return np.nan_to_num(np.interp(np.arange(n_frames) * len(known) / n_frames, np.arange(len(known)), known))


def through_unvoiced(f0_hz: NDArray[np.float64]) -> NDArray[np.float64]:
    """Unvoiced stretches replaced by straight lines, and by the nearest voiced value at the ends."""
    voiced = np.flatnonzero(f0_hz)
    return np.interp(np.arange(len(f0_hz)), voiced, f0_hz[voiced]) if len(voiced) else f0_hz
