"""Random stretches of equal length from clips of any length."""

from collections.abc import Sequence

import numpy as np

from .errors import DataError


class Crops:
    """Stretches of `n_frames` frames, each that the clips of `lengths` frames hold equally likely.

    Clips that are shorter give none; `DataError` where all are.
    """

    def __init__(self, lengths: Sequence[int], n_frames: int) -> None:
        starts = np.maximum(np.array(lengths, np.int64) - n_frames + 1, 0)
        if not starts.any():
            raise DataError(f"no clip has {n_frames} frames\nhint: lower crop_frames, or give longer recordings")
        self.n_frames = n_frames
        self._ends = np.cumsum(starts)
        self._firsts = self._ends - starts

    def draw(self, rng: np.random.Generator) -> tuple[int, slice]:
        """Number of a clip, and frames of it."""
        position = int(rng.integers(self._ends[-1]))
        clip = int(np.searchsorted(self._ends, position, side="right"))
        start = position - int(self._firsts[clip])
        return clip, slice(start, start + self.n_frames)
