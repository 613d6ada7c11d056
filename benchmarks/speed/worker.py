"""A loaded system in a process of its own, so that its peak memory and processor time can be measured.

Nothing here imports torch: a process that runs a voice is that of a user.
"""

import multiprocessing
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ...runtime.errors import ComosvcError
from .chain import Chain, Pass
from .results import Loaded
from .timing import Turn, high_water_mb, reset_high_water, resident_mb

T = TypeVar("T")
Opener = Callable[[int], Chain]
"""Loads a system for a number of threads. Another process must be able to import it."""

WARM_UP_EVALUATIONS = 2
"""Of a sampler, before anything is timed: the first has the allocations, all are of one shape."""
_EXIT_S = 10.0


class MeasuringError(ComosvcError):
    """A system could not be loaded or did not get through a pass."""


@dataclass(frozen=True)
class Peak:
    """Most memory needed since `prepare`, in MB."""

    resident_mb: float | None
    """Of the process, weights and libraries included. None where the system does not say."""
    since_start: bool
    """The high-water mark could not be set back (not Linux): it is that of the process's whole life."""
    device_mb: float | None = None


class Session(Protocol):
    """A loaded system, here or in another process."""

    loaded: Loaded

    def prepare(self, seconds: float, batch: int) -> None: ...

    def turn(self, most: int | None = None) -> Turn: ...

    def peak(self) -> Peak: ...

    def close(self) -> None: ...


class LocalSession:
    """A loaded system in this process."""

    def __init__(self, opener: Opener, threads: int) -> None:
        self._chain = opener(threads)
        self.loaded = replace(self._chain.loaded, loaded_mb=resident_mb())
        self._pass: Pass | None = None
        self._reset = False

    def prepare(self, seconds: float, batch: int) -> None:
        """Put the inputs of that size in place, run them once, and begin to watch the memory."""
        self._pass = None
        self._pass = self._chain.prepare(seconds, batch)
        self._reset = reset_high_water()
        self._chain.device_peak_mb(reset=True)
        self._pass(WARM_UP_EVALUATIONS)

    def turn(self, most: int | None = None) -> Turn:
        """One pass, timed."""
        assert self._pass is not None, "prepare() comes first"
        return self._pass(most)

    def peak(self) -> Peak:
        return Peak(high_water_mb(), not self._reset, self._chain.device_peak_mb(reset=False))

    def close(self) -> None:
        self._pass = None


class ProcessSession:
    """A loaded system in a process of its own, which waits, without computing, for its turn."""

    def __init__(self, name: str, opener: Opener, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._name = name
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, opener, threads), daemon=True)
        self._process.start()
        theirs.close()
        try:
            self.loaded: Loaded = self._receive()
        except BaseException:
            self.close()
            raise

    def prepare(self, seconds: float, batch: int) -> None:
        self._ask("prepare", seconds, batch)

    def turn(self, most: int | None = None) -> Turn:
        return self._ask("turn", most)

    def peak(self) -> Peak:
        return self._ask("peak")

    def close(self) -> None:
        self._connection.close()  # the other end reads the end of the file, and leaves
        self._process.join(_EXIT_S)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join()

    def _ask(self, verb: str, *arguments: Any) -> Any:
        try:
            self._connection.send((verb, arguments))
        except OSError as error:
            raise self._gone() from error
        return self._receive()

    def _receive(self) -> Any:
        try:
            failed, answer = self._connection.recv()
        except (EOFError, OSError) as error:
            raise self._gone() from error
        if failed:
            raise MeasuringError(answer)
        return answer

    def _gone(self) -> MeasuringError:
        self._process.join(_EXIT_S)
        hint = "it was killed, as the system does when memory runs out" if self._process.exitcode == -9 else "it died"
        return MeasuringError(
            f"{self._name}: its process ended with exit code {self._process.exitcode}: {hint}\n"
            "hint: fewer systems at once (--systems), or shorter clips (--lengths)"
        )


def _serve(connection: Connection, opener: Opener, threads: int) -> None:
    """The other process: loads, then answers requests until the connection closes."""
    try:
        session = LocalSession(opener, threads)
        connection.send((False, session.loaded))
        while True:
            verb, arguments = connection.recv()
            connection.send((False, getattr(session, verb)(*arguments)))
    except EOFError:
        return
    except Exception as error:  # any exception of a system is a result: it is reported, and the others go on
        connection.send((True, _in_words(error)))


def _in_words(error: Exception) -> str:
    if isinstance(error, ComosvcError):
        return str(error)
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"


def in_process(function: Callable[..., T], *arguments: Any) -> T:
    """`function(*arguments)` in a process of its own, whose memory and thread settings end with it.

    Raises `MeasuringError` for any exception of it.
    """
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            failed, answer = pool.submit(_answered, function, arguments).result()
    except BrokenProcessPool as error:
        raise MeasuringError(f"its process died: {error}\nhint: does the machine have memory enough?") from error
    if failed:
        raise MeasuringError(answer)
    return answer


def _answered(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[bool, Any]:
    try:
        return False, function(*arguments)
    except Exception as error:  # as in `_serve`
        return True, _in_words(error)
