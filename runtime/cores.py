"""Calls side by side on the cores of a processor, each on one.

One call on several cores leaves them idle in part: between small operators, and while the host prepares the next.
"""

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from .calls import Batches, Call, Reply, Runnable, run_batch

MOST = 8
"""Calls at once: each needs memory of its own."""


class Twins:
    """The graphs of a voice once more, each on one core, opened when first needed; and the threads that run them."""

    def __init__(self, open_graph: Callable[[str], Runnable], cores: int) -> None:
        self.cores = cores
        self._open, self._graphs, self._lock = open_graph, dict[str, Runnable](), threading.Lock()
        self._threads = ThreadPoolExecutor(cores, "comosvc")  # they end with this object

    def run(self, calls: Sequence[Call]) -> list[Reply | Exception]:
        """Every call on a core of its own."""
        start = time.perf_counter()
        with self._lock:
            for name in {call.graph for call in calls} - set(self._graphs):
                self._graphs[name] = self._open(name)
        running = [self._threads.submit(run_batch, [call], self._graphs) for call in calls]
        replies = [_outcome(future) for future in running]
        ms = 1e3 * (time.perf_counter() - start) / len(calls)
        return [reply if isinstance(reply, Exception) else Reply(reply.outputs, ms) for reply in replies]


def _outcome(future: "Future[list[Reply]]") -> Reply | Exception:
    try:
        return future.result()[0]
    except Exception as error:
        return error


class Cores:
    """Runs calls side by side where that uses at least half of the cores, and else each on all of them."""

    def __init__(self, graphs: Mapping[str, Runnable], twins: Twins) -> None:
        self._alone, self._twins = Batches(graphs), twins

    def run_some(self, calls: Sequence[Call], /) -> dict[int, Reply | Exception]:
        # What a graph hears as a whole is few calls, and large: all cores serve one sooner.
        chosen = [index for index, call in enumerate(calls) if not call.whole]
        if len(chosen) < max(2, self._twins.cores / 2):
            return self._alone.run_some(calls)
        return dict(zip(chosen, self._twins.run([calls[index] for index in chosen]), strict=True))


def usable_cores() -> int:
    """Of this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
