"""Calls side by side on the cores of a processor, each on one.

One call on several cores leaves them idle in part: between small operators, and while the host prepares the next.
"""

import contextlib
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from queue import Empty, SimpleQueue
from typing import Any

from ..errors import OptionError, whole_number
from .calls import Batches, Call, Reply, Runnable, run_batch
from .processes import native_code

MOST = 8
"""Largest number of calls at once, each with its memory."""
MOST_THREADS = 256
"""Limit of `threads` on machines with fewer cores. Each graph starts its threads, and thousands take minutes."""
_NO_QUOTA = 1e9


class CorePool:
    """Runs calls side by side, each on one core with graphs that are opened when first needed.

    Fewer calls than half of the cores run one after the other in `graphs`, each on all cores.
    """

    def __init__(self, graphs: Mapping[str, Runnable], open_graph: Callable[[str], Runnable], cores: int) -> None:
        self.cores = cores
        self._on_all_cores = Batches(graphs)
        self._open, self._graphs, self._lock = open_graph, dict[str, Runnable](), threading.Lock()
        self._free = threading.Semaphore(cores)

    def run_some(self, calls: Sequence[Call], /) -> dict[int, Reply | Exception]:
        # Calls with whole inputs are few and large: all cores together finish one sooner.
        chosen = [index for index, call in enumerate(calls) if not call.whole]
        if len(chosen) < max(2, self.cores / 2):
            return self._on_all_cores.run_some(calls)
        return dict(zip(chosen, self._side_by_side([calls[index] for index in chosen]), strict=True))

    def _side_by_side(self, calls: Sequence[Call]) -> list[Reply | Exception]:
        start = time.perf_counter()
        replies: dict[int, Reply | Exception] = {}
        waiting = deque(range(len(calls)))
        finished = SimpleQueue[int]()

        def work() -> None:
            while True:
                with self._free:
                    try:
                        index = waiting.popleft()
                    except IndexError:
                        return
                    replies[index] = self._run_one(calls[index])
                    finished.put(index)

        # Threads of this run only: an executor's take no work while the interpreter waits for its last threads, and
        # are not there after a fork. Beside a call, starting one costs nothing.
        try:
            for _ in range(min(self.cores, len(calls))):
                threading.Thread(target=work, name="comosvc").start()
            while len(replies) < len(calls):
                finished.get()
        except BaseException:
            _await_running(len(calls) - _drain(waiting), replies, finished)
            raise
        ms = 1e3 * (time.perf_counter() - start) / len(calls)
        found = [replies[index] for index in range(len(calls))]
        return [reply if isinstance(reply, Exception) else Reply(reply.outputs, ms) for reply in found]

    @native_code()
    def _run_one(self, call: Call) -> Reply | Exception:
        try:
            return run_batch([call], {call.graph: self._graph(call.graph)})[0]
        except Exception as error:
            return error

    def _graph(self, name: str) -> Runnable:
        with self._lock:
            if name not in self._graphs:
                self._graphs[name] = self._open(name)
            return self._graphs[name]


def _drain(waiting: deque[int]) -> int:
    """Remove the calls that no thread has begun; return their number."""
    count = 0
    with contextlib.suppress(IndexError):
        while True:
            waiting.pop()
            count += 1
    return count


def _await_running(begun: int, replies: Mapping[int, object], finished: SimpleQueue[int]) -> None:
    """Wait for running calls after Ctrl-C, because the interpreter aborts if it ends while a thread is inside a graph.

    Not by `Thread.join`, which takes a thread for ended once it was interrupted (CPython up to 3.12).
    """
    while len(replies) < begun:
        try:
            while len(replies) < begun:
                with contextlib.suppress(Empty):
                    finished.get(timeout=0.1)
        except (KeyboardInterrupt, SystemExit):  # the first interrupt is being raised already
            continue


def check_threads(threads: Any) -> int | None:
    """`threads` if it is None (the engine's choice) or a sensible number. Raises `OptionError`."""
    if threads is None:
        return None
    try:
        return whole_number("threads", threads, 1, max(MOST_THREADS, os.cpu_count() or 1))
    except OptionError as error:
        raise OptionError(
            f"{error}, or None\n"
            f"hint: this process may use {usable_cores()} cores; more threads than cores make it slower"
        ) from None


def usable_cores() -> int:
    """Number of cores that this process may use, by its affinity and the quota of its control groups."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, math.ceil(cpu_quota())))


def threads_within_quota(threads: int | None) -> int | None:
    """`threads`; for None the cores within the quota, which engines ignore, or None without a quota."""
    return usable_cores() if threads is None and cpu_quota() < _NO_QUOTA else threads


def cpu_quota(membership: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> float:
    """Cores granted to this process by Linux's control groups, versions 1 and 2, as limited for containers.

    Without a limit a number larger than any machine's cores.
    """
    quotas = [_NO_QUOTA]
    with contextlib.suppress(OSError):
        for line in membership.read_text("utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            group = PurePosixPath(path.lstrip("/"))
            folder = root / "cpu" if controllers else root
            quotas += [_quota(folder / part) for part in (group, *group.parents)]
    return min(quotas)


def _quota(group: Path) -> float:
    """Quota of one group. `cpu.max` holds "quota period" or "max period"; in version 1 each is a file, -1 for none."""
    try:
        if (group / "cpu.max").is_file():
            quota, period = (group / "cpu.max").read_text("utf-8").split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text("utf-8") for name in ("quota", "period"))
        return float(quota) / float(period) if float(quota) > 0 else _NO_QUOTA
    except (OSError, ValueError):
        return _NO_QUOTA
