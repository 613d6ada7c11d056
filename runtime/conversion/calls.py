"""Graph calls as values: a conversion asks for them, and a runner runs them, alone, batched, or side by side.

A conversion is a generator that yields calls which do not need each other's results, and is sent a `Reply` for each;
its return value is the result. Every call's arrays carry their full context (see `analysis`), so zeros appended to them
cannot reach what is kept: calls of different lengths, from different files, go into one padded batch. Where a graph's
context is its whole input the call says so.
"""

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from .generated import Drawn, Input
from .processes import native_code
from .shapes import check_finite

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


Work = Generator[list[Call], list[Reply], T]


def ask(call: Call) -> Work[Reply]:
    """One call's reply."""
    [reply] = yield [call]
    return reply


def gather(works: Sequence[Work[T]], at_once: int) -> Work[list[T]]:
    """Works that do not need each other as one, `at_once` of them at a time: their calls are asked for together.

    Results in the works' order.
    """
    waiting, active, results = iter(enumerate(works)), dict[int, list[Call]](), dict[int, T]()

    def go_on(number: int, replies: list[Reply] | None) -> None:
        try:
            active[number] = _resume(works[number], replies)
        except StopIteration as stop:
            active.pop(number, None)
            results[number] = stop.value

    while len(results) < len(works):
        while len(active) < at_once and (entry := next(waiting, None)) is not None:
            go_on(entry[0], None)
        if active:
            replies = iter((yield [call for calls in active.values() for call in calls]))
            for number, calls in list(active.items()):
                go_on(number, [next(replies) for _ in calls])
    return [results[number] for number in range(len(works))]


class Runnable(Protocol):
    """A graph that runs: `providers.onnx.Graph`, or a stand-in for it.

    One with a true `takes_drawn` is given inputs of a formula as `Drawn`; others get them made.
    """

    def run(self, inputs: dict[str, Any], /) -> tuple[NDArray, ...]: ...


class Runner(Protocol):
    """Decides which calls run together, and how."""

    def run_some(self, calls: Sequence[Call], /) -> dict[int, Reply | Exception]:
        """Run at least one of the calls; what came of each, by its index."""
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


def timed(work: Work[T]) -> Work[tuple[T, float]]:
    """`work`, and the ms it was busy: its own time and that of its calls, not the time it waited for other clips."""
    busy_ms, replies, error = 0.0, None, None
    while True:
        start = time.perf_counter()
        try:
            calls = _resume(work, replies if error is None else error)
        except StopIteration as stop:
            return stop.value, busy_ms + 1e3 * (time.perf_counter() - start)
        busy_ms += 1e3 * (time.perf_counter() - start)
        error = None
        try:
            replies = yield calls
            busy_ms += sum(reply.ms for reply in replies)
        except Exception as thrown:
            error = thrown
        except GeneratorExit:
            work.close()
            raise


def run(work: Work[T], runner: Runner, answered: Callable[[Call], object] | None = None) -> T:
    """Run one conversion to its end. `answered` is called with each call that was replied to, and may raise."""

    def failed(_: Work[T], error: Exception) -> T:
        raise error

    [result] = run_together([work], runner, 1, failed, lambda _, call: answered and answered(call))
    return result


def run_together(
    works: Iterable[Work[T]],
    runner: Runner,
    width: int,
    failed: Callable[[Work[T], Exception], T],
    answered: Callable[[Work[T], Call], object] = lambda work, call: None,
) -> Iterator[T]:
    """Run conversions `width` at a time, their calls together; yields each result when it is there.

    An exception of one conversion, or of its graphs, ends that one only: `failed` turns it into a result. So does one
    that `answered` raises, which is called with a conversion and each call of it that was replied to.
    """
    waiting = iter(works)
    active: list[_Active[T]] = []
    try:
        while True:
            while len(active) < width and (work := next(waiting, None)) is not None:
                yield from _step(work, None, active, failed)
            if not active:
                return
            asked = [(entry, index) for entry in active for index in range(len(entry.calls)) if index not in entry.done]
            found = runner.run_some([entry.calls[index] for entry, index in asked])
            for number, reply in found.items():
                entry, index = asked[number]
                entry.done[index] = reply
                entry.report(entry.calls[index], answered)
            # Each stays among the active until it goes on: whatever ends this early finds it there, and closes it.
            for entry in [entry for entry in active if entry.error or len(entry.done) == len(entry.calls)]:
                active.remove(entry)
                yield from _step(entry.work, entry.outcome(), active, failed)
    finally:
        for entry in active:
            entry.work.close()


@dataclass(eq=False)
class _Active(Generic[T]):
    """A conversion that waits for replies; `done` has those that are there, by the call's index."""

    work: Work[T]
    calls: list[Call]
    done: dict[int, Reply | Exception] = field(default_factory=dict)
    error: Exception | None = None
    """Error of `answered`."""

    def report(self, call: Call, answered: Callable[[Work[T], Call], object]) -> None:
        try:
            answered(self.work, call)
        except Exception as error:
            self.error = self.error or error

    def outcome(self) -> list[Reply] | Exception:
        if self.error is not None:
            return self.error
        replies = [self.done[index] for index in range(len(self.calls))]
        error = next((reply for reply in replies if isinstance(reply, Exception)), None)
        return error or [reply for reply in replies if isinstance(reply, Reply)]


def _step(
    work: Work[T],
    replies: list[Reply] | Exception | None,
    active: list[_Active[T]],
    failed: Callable[[Work[T], Exception], T],
) -> Iterator[T]:
    """Let one conversion go on until its next calls, which join `active`, or until its result, which is yielded."""
    try:
        active.append(_Active(work, _resume(work, replies)))
    except StopIteration as stop:
        yield stop.value
    except Exception as error:
        yield failed(work, error)


def _resume(work: Work[T], replies: list[Reply] | Exception | None) -> list[Call]:
    if isinstance(replies, Exception):
        return work.throw(replies)
    return next(work) if replies is None else work.send(replies)


def _largest_group(calls: Sequence[Call]) -> list[int]:
    """Those that can run as one: same graph, same scalars, similar length. The most numerous such group."""
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
    if not getattr(graph, "takes_drawn", False):
        inputs = {name: np.asarray(value) for name, value in inputs.items()}
    with native_code():
        outputs = graph.run(inputs)
    check_finite(calls[0].graph, outputs)
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
