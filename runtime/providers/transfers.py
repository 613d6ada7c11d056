"""What crosses between host and device, a batch in parts, and padding, which gives calls of many lengths few shapes."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..conversion.generated import Generated, Input


@dataclass
class Transfers:
    """What crossed for one graph so far, by the names of its tensors, and what was made where it was needed.

    "source" and "noise" are among `made_bytes` where the GPU makes them, and among `sent_bytes` where the host does.
    """

    calls: int = 0
    sent_bytes: Counter[str] = field(default_factory=Counter)
    received_bytes: Counter[str] = field(default_factory=Counter)
    made_bytes: Counter[str] = field(default_factory=Counter)
    ms: float = 0.0
    """Of the copies alone, both ways."""
    making_ms: float = 0.0
    """Of making source and noise, on the GPU or on the host."""

    @property
    def to_device_bytes(self) -> int:
        return self.sent_bytes.total()

    @property
    def to_host_bytes(self) -> int:
        return self.received_bytes.total()

    def add(
        self,
        sent: Mapping[str, int],
        received: Mapping[str, int],
        copying_s: float,
        made: Mapping[str, int] | None = None,
        making_s: float = 0.0,
    ) -> None:
        """Count one more call: bytes of each tensor."""
        self.calls += 1
        self.sent_bytes.update(sent)
        self.received_bytes.update(received)
        self.made_bytes.update(made)
        self.ms += 1e3 * copying_s
        self.making_ms += 1e3 * making_s


def n_bytes(arrays: Mapping[str, NDArray[Any]]) -> dict[str, int]:
    """Of each array."""
    return {name: array.nbytes for name, array in arrays.items()}


def n_clips(inputs: Mapping[str, Input]) -> int:
    """The batch of a call."""
    return max(len(value) for value in inputs.values() if value.ndim)


def clips_of(inputs: Mapping[str, Input], first: int, count: int) -> dict[str, Input]:
    """A call of some of its clips; a scalar stays what it is."""
    return {name: value[first : first + count] if value.ndim else value for name, value in inputs.items()}


def joined(parts: Sequence[tuple[NDArray[Any], ...]]) -> tuple[NDArray[Any], ...]:
    """Outputs of all clips."""
    return parts[0] if len(parts) == 1 else tuple(np.concatenate(outputs) for outputs in zip(*parts, strict=True))


def split_drawn(inputs: Mapping[str, Input], keep: bool) -> tuple[dict[str, Generated], dict[str, NDArray[Any]], float]:
    """Inputs that a formula gives, if `keep`; all others as arrays; and the seconds that making those took."""
    start = time.perf_counter()
    drawn = {name: value for name, value in inputs.items() if keep and isinstance(value, Generated)}
    arrays = {name: np.asarray(value) for name, value in inputs.items() if name not in drawn}
    return drawn, arrays, time.perf_counter() - start


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
