"""Signals that grow at one end while they are forgotten at the other, addressed by absolute position."""

import numpy as np
from numpy.typing import NDArray


class Track:
    """Samples or frames `start` to `end` of a signal. `width` is the shape of one of them: () for a scalar."""

    def __init__(self, width: tuple[int, ...] = (), dtype: type[np.generic] = np.float32) -> None:
        self._held = np.zeros((0, *width), dtype)
        self.start = 0

    @property
    def end(self) -> int:
        return self.start + len(self._held)

    def append(self, values: NDArray) -> None:
        self._held = np.concatenate((self._held, values.astype(self._held.dtype, copy=False)))

    def append_zeros(self, count: int) -> None:
        self.append(np.zeros((count, *self._held.shape[1:]), self._held.dtype))

    def read(self, first: int, last: int) -> NDArray:
        """Positions `first` to `last` (exclusive), which must be there."""
        assert self.start <= first <= last <= self.end, (self.start, first, last, self.end)
        return self._held[first - self.start : last - self.start]

    def read_padded(self, first: int, last: int) -> NDArray:
        """As `read`, with zeros for what lies beyond the end."""
        inside = self.read(min(first, self.end), min(last, self.end))
        missing = last - first - len(inside)
        return np.concatenate((inside, np.zeros((missing, *inside.shape[1:]), inside.dtype))) if missing else inside

    def restart(self, at: int) -> None:
        """Drop everything; what is appended next begins at position `at`."""
        self._held, self.start = self._held[:0], at

    def forget(self, before: int) -> None:
        """Drop what lies before position `before`; it will not be read again."""
        cut = min(max(before - self.start, 0), len(self._held))
        if cut:
            self._held = self._held[cut:].copy()
            self.start += cut
