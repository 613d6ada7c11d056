"""What crosses between host and device, and the padding that gives calls of many lengths few shapes."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass
class Transfers:
    """What crossed for one graph so far."""

    calls: int = 0
    to_device_bytes: int = 0
    to_host_bytes: int = 0
    ms: float = 0.0
    """Of the copies alone, both ways."""

    def add(self, sent: Iterable[NDArray[Any]], received: Iterable[NDArray[Any]], seconds: float) -> None:
        """Count one more call."""
        self.calls += 1
        self.to_device_bytes += sum(array.nbytes for array in sent)
        self.to_host_bytes += sum(array.nbytes for array in received)
        self.ms += 1e3 * seconds


def fill(target: NDArray[Any], array: NDArray[Any]) -> None:
    """Put `array` in the corner of `target`, and zeros around it."""
    if target.shape != array.shape:
        target.fill(0)
    target[tuple(slice(0, size) for size in array.shape)] = array


def padded(array: NDArray[Any], shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """`array` in the corner of a contiguous one of `shape`."""
    if array.shape == shape:
        return np.ascontiguousarray(array, dtype)
    target = np.zeros(shape, dtype)
    fill(target, array)
    return target
