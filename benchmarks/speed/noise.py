"""What else the machine did meanwhile."""

import os
import time
from dataclasses import dataclass

import psutil

BUSY_CORES = 0.1
"""Others that use more than this many cores on average disturb a measurement."""


@dataclass(frozen=True)
class Disturbance:
    """During some measurement."""

    others_cores: float
    """Processor time that others took, or that a hypervisor withheld, per second: cores that were not there."""
    load_average: float | None
    """Of the last minute, at the end; it counts the measurement itself."""

    @property
    def is_heavy(self) -> bool:
        return self.others_cores > BUSY_CORES


class Watch:
    """From its making to `stop`, over this process and those that it has started, which must stay alive."""

    def __init__(self) -> None:
        self._start = self._now()

    def stop(self) -> Disturbance:
        (wall, busy, ours), (wall_0, busy_0, ours_0) = self._now(), self._start
        others = max(0.0, (busy - busy_0) - (ours - ours_0)) / max(wall - wall_0, 1e-9)
        return Disturbance(others, os.getloadavg()[0] if hasattr(os, "getloadavg") else None)

    @staticmethod
    def _now() -> tuple[float, float, float]:
        """Seconds: on the wall, of all processors busy or withheld, of this process and its children."""
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
