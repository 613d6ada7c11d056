"""Systems for timing: a system is a chain of stages, and a stage is a network with the inputs of a clip."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...runtime.voice.graphs import GraphSpec

if TYPE_CHECKING:
    from torch import nn

STAGES = ("content", "f0", "first_acoustic", "first_vocoder", "condition", "acoustic", "vocoder")
"""In the order of the chain; a system has some of them, each once.

A sampler of several evaluations embeds its condition once for all of them, in `condition`; elsewhere that is part of
`acoustic`. Shallow diffusion starts from the audio of a whole other model, whose stages are the `first_` two.
"""

Inputs = dict[str, NDArray[np.float32] | NDArray[np.int32] | NDArray[np.int64]]


@dataclass(frozen=True, kw_only=True)
class TimedStep:
    """One stage of a system.

    A stage of several evaluations (a sampler) hands each one's first output to the next as input `carry`, with its
    number as input `step_index` (a scalar int64 or int32, as `graph` says), from 0 to `evaluations - 1`.
    """

    name: str
    """One of `STAGES`."""
    graph: GraphSpec
    """Inputs and outputs of the module, for the exporter."""
    build: "Callable[[], nn.Module]"
    """Makes the network with random weights, the same at each call."""
    inputs: Callable[[float, int], Inputs]
    """Inputs for (seconds of audio, batch), the same at each call."""
    evaluations: int = 1
    carry: str | None = None


@dataclass(frozen=True, kw_only=True)
class HostStage:
    """A stage without a network: F0 found on the processor. `run` takes audio (L,) at `sample_rate`."""

    name: str
    sample_rate: int
    run: Callable[[NDArray[np.float64]], object]


@dataclass(frozen=True, kw_only=True)
class SpeedSystem:
    """A system whose speed is compared: `comosvc-authors`, `sovits-flow`, …"""

    id: str
    title: str
    """With the size and the number of evaluations, for readers of the table."""
    sample_rate: int
    stages: tuple[TimedStep | HostStage, ...]
    parameters: Mapping[str, int]
    """Of each stage that has a network: the number of weights that inference uses."""
    gflop_per_s: Mapping[str, float]
    """Of each stage that has a network, per second of audio, every evaluation counted; 1 MAC = 2 FLOP."""
    overhead: Callable[[], object] | None = None
    """Work of the original on every call besides computing (a vocoder read again), which is timed apart. The first call
    prepares the others and is not timed.
    """
