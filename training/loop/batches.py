"""Random draws of a batch, random crops, and background loading."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import DataError

Batch = Mapping[str, Tensor]


class Draws:
    """Generators of the samples `numbers` of a step; a batch has as many samples as there are numbers."""

    def __init__(self, seed: int, step: int, numbers: range) -> None:
        self.numbers = numbers
        key = np.array([seed % 2**64, step % 2**64], np.uint64)
        self.generators = tuple(
            np.random.Generator(np.random.Philox(key=key, counter=np.array([0, 0, 0, number], np.uint64)))
            for number in numbers
        )

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[tuple[int, np.random.Generator]]:
        """Number and generator of each sample."""
        return zip(self.numbers, self.generators, strict=True)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal float32 (B, *shape)."""
        return self._stack(lambda rng: rng.standard_normal(shape, np.float32))

    def integers(self, high: int) -> Tensor:
        """Uniform over 0 .. high - 1, int64 (B,)."""
        return self._stack(lambda rng: np.asarray(rng.integers(high)))

    def _stack(self, draw: Callable[[np.random.Generator], NDArray]) -> Tensor:
        return torch.from_numpy(np.stack([draw(rng) for rng in self.generators]))


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
