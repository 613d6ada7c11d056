"""Graph calls: inputs of one clip, and runners that decide which calls run together.

The arrays of every call carry their full context (see `analysis`), so zeros appended to them cannot change a result:
calls of different lengths, from different files, go into one padded batch. A call says where the context of its graph
is the whole input.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .generated import Generated, Input
from .processes import native_code
from .shapes import check_finite

LEAST_FILLED = 0.75
"""A call joins a batch if it fills this share of the longest; more padding costs more than batching saves."""


@dataclass(frozen=True, eq=False)
class Call:
    """One run of a graph for one clip: arrays (1, length, ...) or (1, channels) or scalars, by the contract's names."""

    graph: str
    inputs: dict[str, Input]
    whole: bool = False
    """Every output depends on all of the input, and padding would change it: only equal lengths go together."""


@dataclass(frozen=True)
class Reply:
    """Outputs (1, length, ...) in the contract's order, as long as the call's or longer, and the time they took."""

    outputs: tuple[NDArray, ...]
    ms: float


class Runnable(Protocol):
    """A graph that runs: `providers.onnx.Graph`, or a stand-in for it.

    One with a true `takes_generated` is given inputs of a formula as `Generated`; others get them as arrays.
    """

    def run(self, inputs: dict[str, Any], /) -> tuple[NDArray, ...]: ...


class Runner(Protocol):
    """Decides which calls run together, and how."""

    def run_some(self, calls: Sequence[Call], /) -> dict[int, Reply | Exception]:
        """Run at least one of the calls; the reply to each that ran, or its error, by its index."""
        ...


class Batches:
    """Runs like calls as one with a batch of up to `width` clips."""

    def __init__(self, graphs: Mapping[str, Runnable], width: int = 1) -> None:
        self._graphs, self._width = graphs, width

    def run_some(self, calls: Sequence[Call], /) -> dict[int, Reply | Exception]:
        """The most numerous group that can run as one; the others wait, for more of their kind may come."""
        chosen = _largest_group(calls)[: self._width]
        try:
            replies: Sequence[Reply | Exception] = run_batch([calls[index] for index in chosen], self._graphs)
        except Exception as error:
            replies = [error] * len(chosen)
        return dict(zip(chosen, replies, strict=True))


def _largest_group(calls: Sequence[Call]) -> list[int]:
    """The most numerous group of calls that can run as one: same graph, same scalars, similar length."""
    groups: list[list[int]] = []
    for index in sorted(range(len(calls)), key=lambda index: -_length(calls[index])):
        for group in groups:
            first = calls[group[0]]
            if _kind(first) == _kind(calls[index]) and _length(calls[index]) >= LEAST_FILLED * _length(first):
                group.append(index)
                break
        else:
            groups.append([index])
    return max(groups, key=len)


def _kind(call: Call) -> tuple:
    scalars = sorted((name, np.asarray(value).item()) for name, value in call.inputs.items() if value.ndim == 0)
    return call.graph, tuple(scalars), _length(call) if call.whole else None


def _length(call: Call) -> int:
    return max(value.shape[1] for value in call.inputs.values() if value.ndim)


def run_batch(calls: Sequence[Call], graphs: Mapping[str, Runnable]) -> list[Reply]:
    """Like calls as one run of their graph. Raises `BundleError` for outputs that are NaN or infinite."""
    start = time.perf_counter()
    inputs = {name: _stack([call.inputs[name] for call in calls]) for name in calls[0].inputs}
    graph = graphs[calls[0].graph]
    if not getattr(graph, "takes_generated", False):
        inputs = {name: np.asarray(value) for name, value in inputs.items()}
    with native_code():
        outputs = graph.run(inputs)
    check_finite(calls[0].graph, outputs)
    ms = 1e3 * (time.perf_counter() - start) / len(calls)
    return [Reply(tuple(output[i : i + 1] for output in outputs), ms) for i in range(len(calls))]


def _stack(inputs: list[Input]) -> Input:
    """(1, length, ...) inputs as one (B, longest, ...), zeros appended. Scalars do not change."""
    if len(inputs) == 1 or inputs[0].ndim == 0:
        return inputs[0]
    drawn = [value for value in inputs if isinstance(value, Generated)]
    if len(drawn) == len(inputs):
        return Generated([row for value in drawn for row in value.rows])
    longest = max(value.shape[1] for value in inputs)
    stacked = np.zeros((len(inputs), longest, *inputs[0].shape[2:]), inputs[0].dtype)
    for row, value in zip(stacked, inputs, strict=True):
        row[: value.shape[1]] = np.asarray(value)[0]
    return stacked
