"""Random draws of a training batch, each sample's from a generator of its own.

A sample's generator is keyed by (seed, step, number of the sample within the step), and by nothing else. So a run that
is killed and resumed sees what the uninterrupted one would have seen, and a step's samples are the same however they
are dealt out: over one process or several, at once or in accumulated parts.
"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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
