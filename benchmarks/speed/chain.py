"""A loaded system: passes over its stages for a length and a batch, timed by stage."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..baselines.steps import HostStage, SpeedSystem, TimedStep
from .results import Loaded, VariantKey
from .timing import Step, Turn

CLIP_RATE = 44_100
"""Of the clips that voices convert: the voice resamples, and that is counted."""
_LOW_HZ, _HIGH_HZ, _PHRASE_S = 130.0, 390.0, 4.0
_VIBRATO_HZ, _VIBRATO_DEPTH = 5.5, 0.02
_HARMONICS = 16
_BREATH = 3e-3


def sung_clip(seconds: float, sample_rate: int) -> NDArray[np.float64]:
    """A glide up and down with vibrato, (L,), peak 0.5. Never silent: silence costs a voice nothing."""
    t = np.arange(round(seconds * sample_rate)) / sample_rate
    rise = 0.5 - 0.5 * np.cos(2.0 * np.pi * t / _PHRASE_S)
    f0_hz = _LOW_HZ * (_HIGH_HZ / _LOW_HZ) ** rise * (1.0 + _VIBRATO_DEPTH * np.sin(2.0 * np.pi * _VIBRATO_HZ * t))
    phase = 2.0 * np.pi * np.cumsum(f0_hz) / sample_rate
    clip = _BREATH * np.random.default_rng(0).standard_normal(len(t))
    for harmonic in range(1, _HARMONICS + 1):
        clip += np.sin(harmonic * phase) / harmonic
    return 0.5 * clip / max(float(np.abs(clip).max(initial=0.0)), 1e-9)


Pass = Callable[[int | None], Turn]
"""One pass over the chain; its argument is the most evaluations of a stage (`timing.evaluations_to_time`)."""
Call = Callable[[dict[str, Any]], Any]
"""A network: inputs by name to its first output."""
Place = Callable[[NDArray[Any]], Any]
"""Puts an input where the engine wants it."""
_OVERHEAD_REPEATS = 3


class Chain(Protocol):
    """A system in an engine. `prepare` gives passes over `batch` clips of `seconds`."""

    loaded: Loaded

    def prepare(self, seconds: float, batch: int) -> Pass: ...

    def device_peak_mb(self, reset: bool) -> float | None:
        """Most memory of the accelerator since the last reset; None without one."""
        ...


def networks(system: SpeedSystem) -> list[TimedStep]:
    """The stages that have one."""
    return [stage for stage in system.stages if isinstance(stage, TimedStep)]


def measure_overhead(make: Callable[[], SpeedSystem]) -> float | None:
    """`Loaded.overhead_s` of a system. In a process of its own, so that its memory is not counted with the system's."""
    system = make()
    if system.overhead is None:
        return None
    system.overhead()  # prepares the others
    seconds = []
    for _ in range(_OVERHEAD_REPEATS):
        start = time.perf_counter()
        system.overhead()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def describe(system: SpeedSystem, **found: Any) -> Loaded:
    """The sizes of a system, with the figures that were `found` when it was loaded."""
    return Loaded(
        title=system.title,
        sample_rate=system.sample_rate,
        parameters=dict(system.parameters),
        gflop_per_s=dict(system.gflop_per_s),
        **found,
    )


def make_steps(
    system: SpeedSystem,
    seconds: float,
    batch: int,
    network: Callable[[TimedStep], tuple[Call, Place]],
) -> list[Step]:
    """Every stage with its inputs where the engine wants them: moving them there is not timed."""
    steps = []
    for stage in system.stages:
        if isinstance(stage, HostStage):
            steps.append(_host_step(stage, seconds, batch))
        else:
            call, place = network(stage)
            inputs = {name: place(value) for name, value in stage.inputs(seconds, batch).items()}
            steps.append(Step(stage.name, _sampler(stage, call, inputs, place), stage.evaluations))
    return steps


def _host_step(stage: HostStage, seconds: float, batch: int) -> Step:
    clip = sung_clip(seconds, stage.sample_rate)

    def run(_: int) -> None:
        for _ in range(batch):
            stage.run(clip)

    return Step(stage.name, run)


def _sampler(stage: TimedStep, call: Call, inputs: dict[str, Any], place: Place) -> Callable[[int], object]:
    """`n` evaluations in a row, each one's first output carried on to the next as the stage says."""
    dtypes = {tensor.name: tensor.dtype for tensor in stage.graph.inputs}
    indices = []
    if "step_index" in dtypes:
        indices = [place(np.array(i, dtypes["step_index"])) for i in range(stage.evaluations)]

    def run(n: int) -> Any:
        now, output = dict(inputs), None
        for number in range(n):
            if indices:
                now["step_index"] = indices[number]
            output = call(now)
            if stage.carry is not None:
                now[stage.carry] = output
        return output

    return run


@dataclass(frozen=True)
class Variant:
    """How to run it. `make_ready` runs first, in a process of its own; `open` gets its result, in another one.

    Both are importable by name, so that another process can have them.
    """

    key: VariantKey
    make_ready: Callable[[], Any]
    open: Callable[[Any, int], Chain]
    provider: str | None = None


@dataclass(frozen=True)
class Skipped:
    """A combination that was asked for and cannot be run here. `device`: where it can; None: nowhere."""

    key: VariantKey
    why: str
    device: str | None
