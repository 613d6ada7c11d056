"""The clock, the load by other processes, and the memory of a process."""

import os
import sys
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from ...export.archive import peak_memory_bytes
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
    """The source of time. `sync` waits for the work of the device."""

    wall: Callable[[], float] = time.perf_counter
    cpu: Callable[[], float] = time.process_time
    sync: Callable[[], object] = lambda: None


def evaluations_to_time(evaluations: int, most: int | None) -> int:
    """Evaluations that one pass computes; `most` None: all, or `TIMED_EVALUATIONS` of more than `MANY_EVALUATIONS`."""
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
    """Numbers of repetitions: `most` rounds, but at least `least` if `limit_s` is used up before."""

    most: int = 5
    least: int = 3
    limit_s: float = 120.0


def in_turns(
    takers: Mapping[K, Callable[[], Turn]],
    rounds: Rounds,
    failed: Callable[[K, ComosvcError], object],
    wall: Callable[[], float] = time.perf_counter,
) -> dict[K, list[Turn]]:
    """Each taker once a round, every other round in the opposite order, so that load on the machine meets each of them.

    The takers are warm already. One that raises `ComosvcError` is passed to `failed` and has no result.
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
    """Half of the 95 % interval of the median as a share of it, as for normal noise. None: fewer than three."""
    found = spread(values)
    return None if found is None else _SIGMAS_95 * _MEDIAN_ERROR * found / _IQR_OF_NORMAL / len(values) ** 0.5


BUSY_CORES = 0.1
"""Other processes that use more than this many cores on average disturb a measurement."""


@dataclass(frozen=True)
class Disturbance:
    """Load by other processes during a measurement."""

    others_cores: float
    """Processor time that others took, or that a hypervisor withheld, per second."""
    load_average: float | None
    """Of the last minute, at the end; it counts the measurement itself."""


class Watch:
    """Measures from its making to `stop`. Child processes, which must stay alive, count as our own."""

    def __init__(self) -> None:
        self._start = self._now()

    def stop(self) -> Disturbance:
        (wall, busy, ours), (wall_0, busy_0, ours_0) = self._now(), self._start
        others = max(0.0, (busy - busy_0) - (ours - ours_0)) / max(wall - wall_0, 1e-9)
        return Disturbance(others, os.getloadavg()[0] if hasattr(os, "getloadavg") else None)

    @staticmethod
    def _now() -> tuple[float, float, float]:
        """Seconds: on the wall, of all processors busy or withheld, of this process and its children."""
        import psutil  # here, so that results are read without it

        times = psutil.cpu_times()._asdict()
        busy = sum(times.get(kind, 0.0) for kind in ("user", "nice", "system", "irq", "softirq", "steal"))
        me = psutil.Process()
        ours = 0.0
        for process in (me, *me.children(recursive=True)):
            try:
                spent = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            ours += spent.user + spent.system
        return time.perf_counter(), busy, ours


_CLEAR_REFS, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def reset_high_water() -> bool:
    """Let the high-water mark of the resident size begin anew (Linux, proc(5)); whether that is possible here."""
    try:
        _CLEAR_REFS.write_text("5")
    except OSError:
        return False
    return True


def high_water_mb() -> float | None:
    """The largest resident size since the last reset; None where the system does not say."""
    if (peak := _status_mb("VmHWM")) is not None:
        return peak
    peak = peak_memory_bytes()
    return None if peak is None else peak / 1e6


def resident_mb() -> float | None:
    """The resident size now; None where the system does not say (not Linux)."""
    return _status_mb("VmRSS")


def _status_mb(field: str) -> float | None:
    if not sys.platform.startswith("linux"):
        return None
    lines = _STATUS.read_text("utf-8").splitlines()
    found = next((line for line in lines if line.startswith(f"{field}:")), None)
    return None if found is None else int(found.split()[1]) * 1024 / 1e6
