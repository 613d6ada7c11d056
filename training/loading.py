"""Batches made in a thread while the network computes, and how long it waited for them all the same."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Loader(Generic[T]):
    """Yields (step, make(step)) for each of `steps`, in order, up to `ahead` of them made beforehand.

    One thread makes them, one after the other: numpy and torch let go of the interpreter in what takes long. An error
    in `make` is raised at its own step, not before.
    """

    def __init__(self, make: Callable[[int], T], steps: range, ahead: int = 2) -> None:
        self._make, self._steps, self._ahead = make, steps, ahead
        self._waited_s = 0.0
        self._since = time.perf_counter()

    def __iter__(self) -> Iterator[tuple[int, T]]:
        coming: deque[Future[T]] = deque()
        todo = iter(self._steps)
        thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        try:
            for step in self._steps:
                while len(coming) <= self._ahead and (following := next(todo, None)) is not None:
                    coming.append(thread.submit(self._make, following))
                start = time.perf_counter()
                made = coming.popleft().result()
                self._waited_s += time.perf_counter() - start
                yield step, made
        finally:
            thread.shutdown(cancel_futures=True)

    def wait_fraction(self) -> float:
        """Share of the time since the last call (since the start, at the first) that was spent waiting for batches."""
        now = time.perf_counter()
        fraction = self._waited_s / max(now - self._since, 1e-9)
        self._waited_s, self._since = 0.0, now
        return fraction
