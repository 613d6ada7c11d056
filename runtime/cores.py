"""Calls side by side on the cores of a processor, each on one.

One call on several cores leaves them idle in part: between small operators, and while the host prepares the next.
"""

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from queue import Empty, SimpleQueue

from .calls import Batches, Call, Reply, Runnable, run_batch

MOST = 8
"""Calls at once: each needs memory of its own."""


class Twins:
    """The graphs of a voice once more, each on one core and opened when first needed."""

    def __init__(self, open_graph: Callable[[str], Runnable], cores: int) -> None:
        self.cores = cores
        self._open, self._graphs, self._lock = open_graph, dict[str, Runnable](), threading.Lock()
        self._free = threading.Semaphore(cores)

    def run(self, calls: Sequence[Call]) -> list[Reply | Exception]:
        """Every call on a core of its own."""
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
    """Take the calls that no thread has begun; how many there were."""
    count = 0
    with contextlib.suppress(IndexError):
        while True:
            waiting.pop()
            count += 1
    return count


def _await_running(begun: int, replies: Mapping[int, object], finished: SimpleQueue[int]) -> None:
    """Wait for the calls that run, after Ctrl-C: the interpreter aborts if it ends while a thread is inside a graph.

    Not by `Thread.join`, which takes a thread for ended once it was interrupted (CPython up to 3.12).
    """
    while len(replies) < begun:
        with contextlib.suppress(Empty, KeyboardInterrupt, SystemExit):  # the first of them is under way already
            finished.get(timeout=0.1)


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
