"""The clock: passes over a chain timed stage by stage, in turns between systems, and what the repetitions say."""

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from ...runtime.errors import ComosvcError

K = TypeVar("K", bound=Hashable)

MANY_EVALUATIONS = 50
"""A sampler of more evaluations than this is not run to its end each time: `TIMED_EVALUATIONS` are, and scaled."""
TIMED_EVALUATIONS = 10
NOISY_SPREAD = 0.1
"""Repetitions whose middle half spreads over more than this share of the median are marked."""
_IQR_OF_NORMAL, _MEDIAN_ERROR, _SIGMAS_95 = 1.349, 1.2533, 1.96


@dataclass(frozen=True)
class Sample:
    """Seconds that a stage took once, on the wall and of the process's processor time (all threads together).

    Where fewer evaluations were `timed` than the stage has, both are already scaled to all of them.
    """

    wall_s: float
    cpu_s: float
    evaluations: int = 1
    timed: int = 1


Turn = Mapping[str, Sample]
"""One pass over a chain: a sample of each stage, in their order."""


@dataclass(frozen=True)
class Step:
    """A stage with its inputs in place. `run(n)` computes the first n of its evaluations."""

    stage: str
    run: Callable[[int], object]
    evaluations: int = 1


@dataclass(frozen=True)
class Clock:
    """Where time comes from. `sync` waits until the device has done what it was given."""

    wall: Callable[[], float] = time.perf_counter
    cpu: Callable[[], float] = time.process_time
    sync: Callable[[], object] = lambda: None


def evaluations_to_time(evaluations: int, most: int | None) -> int:
    """How many evaluations one pass computes; `most` None: all that `MANY_EVALUATIONS` does not forbid."""
    if most is not None:
        return min(evaluations, most)
    return TIMED_EVALUATIONS if evaluations > MANY_EVALUATIONS else evaluations


def time_steps(steps: Sequence[Step], clock: Clock, most: int | None = None) -> dict[str, Sample]:
    """One pass over a chain, synchronised on both sides of each stage. `most`: see `evaluations_to_time`."""
    turn = {}
    for step in steps:
        timed = evaluations_to_time(step.evaluations, most)
        clock.sync()
        wall, cpu = clock.wall(), clock.cpu()
        step.run(timed)
        clock.sync()
        scale = step.evaluations / timed
        turn[step.stage] = Sample(
            scale * (clock.wall() - wall), scale * (clock.cpu() - cpu), evaluations=step.evaluations, timed=timed
        )
    return turn


@dataclass(frozen=True)
class Rounds:
    """How often everything is repeated: `most` rounds, but after `least` no more once `limit_s` is used up."""

    most: int = 5
    least: int = 3
    limit_s: float = 120.0


def in_turns(
    takers: Mapping[K, Callable[[], Turn]],
    rounds: Rounds,
    failed: Callable[[K, ComosvcError], object],
    wall: Callable[[], float] = time.perf_counter,
) -> dict[K, list[Turn]]:
    """Each taker once a round, every other round in the opposite order, so that a machine that is busy or hot for a
    while is so for each of them. Whoever calls has warmed them up. One that raises `ComosvcError` is told to `failed`
    and has no result.
    """
    taken: dict[K, list[Turn]] = {key: [] for key in takers}
    start = wall()
    for number in range(rounds.most):
        if number >= rounds.least and wall() - start > rounds.limit_s:
            break
        for key in list(taken) if number % 2 == 0 else reversed(list(taken)):
            try:
                taken[key].append(takers[key]())
            except ComosvcError as error:
                del taken[key]
                failed(key, error)
    return taken


def median(values: Sequence[float]) -> float:
    return float(np.median(values))


def p95(values: Sequence[float]) -> float:
    return float(np.percentile(values, 95))


def p99(values: Sequence[float]) -> float:
    """Of fewer than a hundred it lies between the two largest: read it with their number."""
    return float(np.percentile(values, 99))


def spread(values: Sequence[float]) -> float | None:
    """From the first to the third quartile, as a share of the median. None for fewer than three values."""
    if len(values) < 3:
        return None
    low, middle, high = np.percentile(values, (25, 50, 75))
    return float((high - low) / middle) if middle > 0 else 0.0


def median_error(values: Sequence[float]) -> float | None:
    """Half of the 95 % interval of the median as a share of it, as for normal noise. None: too few to know."""
    found = spread(values)
    return None if found is None else _SIGMAS_95 * _MEDIAN_ERROR * found / _IQR_OF_NORMAL / len(values) ** 0.5
