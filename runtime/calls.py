"""Graph calls as values: a conversion asks for them one at a time, and whoever drives it runs them, alone or batched.

A conversion is a generator that yields `Call` and is sent `Reply`; its return value is the result. Every call's arrays
carry their full context (see `analysis`), so zeros appended to them cannot reach what is kept: calls of different
lengths, from different files, go into one padded batch. Where a graph's context is its whole input the call says so.
"""

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from .drawn import Drawn, Input

T = TypeVar("T")

LEAST_FILLED = 0.75
"""A call joins a batch if it fills this share of the longest; more padding costs more than batching saves."""


@dataclass(frozen=True)
class Call:
    """One run of a graph for one clip: arrays (1, length, ...) or (1, channels) or scalars, by the contract's names."""

    graph: str
    inputs: dict[str, Input]
    whole: bool = False
    """The graph sees all of its input at once, and padding would change the result: only equal lengths go together."""


@dataclass(frozen=True)
class Reply:
    """Outputs (1, length, ...) in the contract's order, as long as the call's or longer, and the time they took."""

    outputs: tuple[NDArray, ...]
    ms: float


Work = Generator[Call, Reply, T]


class Runnable(Protocol):
    """A graph that runs: `providers.onnx.Graph`, or a stand-in for it.

    One with a true `takes_drawn` is given inputs of a formula as `Drawn`; others get them made.
    """

    def run(self, inputs: dict[str, Any], /) -> tuple[NDArray, ...]: ...


def timed(work: Work[T]) -> Work[tuple[T, float]]:
    """`work`, and the ms it was busy: its own time and that of its calls, not the time it waited for other clips."""
    busy_ms, reply, error = 0.0, None, None
    while True:
        start = time.perf_counter()
        try:
            call = _resume(work, reply if error is None else error)
        except StopIteration as stop:
            return stop.value, busy_ms + 1e3 * (time.perf_counter() - start)
        busy_ms += 1e3 * (time.perf_counter() - start)
        error = None
        try:
            reply = yield call
            busy_ms += reply.ms
        except Exception as thrown:
            error = thrown
        except GeneratorExit:
            work.close()
            raise


def run(work: Work[T], graphs: Mapping[str, Runnable]) -> T:
    """Run one conversion to its end."""
    try:
        call = next(work)
        while True:
            call = work.send(_run_batch([call], graphs)[0])
    except StopIteration as stop:
        return stop.value
    finally:
        work.close()


def run_together(
    works: Iterable[Work[T]], graphs: Mapping[str, Runnable], width: int, failed: Callable[[Work[T], Exception], T]
) -> Iterator[T]:
    """Run conversions `width` at a time, their calls batched; yields each result when it is there.

    An exception of one conversion, or of its graphs, ends that one only: `failed` turns it into a result.
    """
    waiting = iter(works)
    active: list[tuple[Work[T], Call]] = []
    try:
        while True:
            while len(active) < width and (work := next(waiting, None)) is not None:
                yield from _step(work, None, active, failed)
            if not active:
                return
            # Each stays among the active until it goes on: whatever ends this early finds it there, and closes it.
            for work, reply in _replies(_largest_group(active), graphs):
                active = [entry for entry in active if entry[0] is not work]
                yield from _step(work, reply, active, failed)
    finally:
        for work, _ in active:
            work.close()


def _step(
    work: Work[T],
    reply: Reply | Exception | None,
    active: list[tuple[Work[T], Call]],
    failed: Callable[[Work[T], Exception], T],
) -> Iterator[T]:
    """Let one conversion go on until its next call, which joins `active`, or until its result, which is yielded."""
    try:
        active.append((work, _resume(work, reply)))
    except StopIteration as stop:
        yield stop.value
    except Exception as error:
        yield failed(work, error)


def _resume(work: Work[T], reply: Reply | Exception | None) -> Call:
    if isinstance(reply, Exception):
        return work.throw(reply)
    return next(work) if reply is None else work.send(reply)


def _largest_group(active: list[tuple[Work[T], Call]]) -> list[tuple[Work[T], Call]]:
    """The calls that can run as one: same graph, same scalars, similar length. The most numerous such group."""
    groups: list[list[tuple[Work[T], Call]]] = []
    for entry in sorted(active, key=lambda entry: -_length(entry[1])):
        for group in groups:
            first = group[0][1]
            if _kind(first) == _kind(entry[1]) and _length(entry[1]) >= LEAST_FILLED * _length(first):
                group.append(entry)
                break
        else:
            groups.append([entry])
    return max(groups, key=len)


def _kind(call: Call) -> tuple:
    scalars = sorted((name, np.asarray(value).item()) for name, value in call.inputs.items() if value.ndim == 0)
    return call.graph, tuple(scalars), _length(call) if call.whole else None


def _length(call: Call) -> int:
    return max(value.shape[1] for value in call.inputs.values() if value.ndim)


def _replies(
    batch: list[tuple[Work[T], Call]], graphs: Mapping[str, Runnable]
) -> Iterator[tuple[Work[T], Reply | Exception]]:
    try:
        replies: list[Reply] | list[Exception] = _run_batch([call for _, call in batch], graphs)
    except Exception as error:
        replies = [error] * len(batch)
    for (work, _), reply in zip(batch, replies, strict=True):
        yield work, reply


def _run_batch(calls: list[Call], graphs: Mapping[str, Runnable]) -> list[Reply]:
    start = time.perf_counter()
    inputs = {name: _stack([call.inputs[name] for call in calls]) for name in calls[0].inputs}
    graph = graphs[calls[0].graph]
    if not getattr(graph, "takes_drawn", False):
        inputs = {name: np.asarray(value) for name, value in inputs.items()}
    outputs = graph.run(inputs)
    ms = 1e3 * (time.perf_counter() - start) / len(calls)
    return [Reply(tuple(output[i : i + 1] for output in outputs), ms) for i in range(len(calls))]


def _stack(inputs: list[Input]) -> Input:
    """(1, length, ...) inputs as one (B, longest, ...), zeros appended. A scalar stays what it is."""
    if len(inputs) == 1 or inputs[0].ndim == 0:
        return inputs[0]
    drawn = [value for value in inputs if isinstance(value, Drawn)]
    if len(drawn) == len(inputs):
        return Drawn([row for value in drawn for row in value.rows])
    longest = max(value.shape[1] for value in inputs)
    stacked = np.zeros((len(inputs), longest, *inputs[0].shape[2:]), inputs[0].dtype)
    for row, value in zip(stacked, inputs, strict=True):
        row[: value.shape[1]] = np.asarray(value)[0]
    return stacked
