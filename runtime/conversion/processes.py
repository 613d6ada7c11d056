"""Native code at the end of the interpreter and in forked children."""

import atexit
import ctypes
import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar


class _DaemonThreads:
    """The daemon threads inside native code."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = set[int]()
        self._ending = False

    @contextmanager
    def native_code(self) -> Iterator[None]:
        """Context for native code in a daemon thread: the interpreter's end waits for it, and later blocks never begin.

        The interpreter waits for other threads anyway.
        """
        thread = threading.get_ident()
        if not threading.current_thread().daemon or thread in self._inside:
            yield
            return
        with self._changed:
            self._changed.wait_for(lambda: not self._ending)
            self._inside.add(thread)
        try:
            yield
        finally:
            with self._changed:
                self._inside.remove(thread)
                self._changed.notify_all()

    def await_all(self) -> None:
        with self._changed:
            self._ending = True
            self._changed.wait_for(lambda: not self._inside)


_daemon_threads = _DaemonThreads()
native_code = _daemon_threads.native_code
atexit.register(_daemon_threads.await_all)
if hasattr(os, "register_at_fork"):  # the child has none of them
    os.register_at_fork(after_in_child=_daemon_threads.__init__)


T = TypeVar("T")

_kept = weakref.WeakSet[object]()


def keep_in_forks(native: T) -> T:
    """Mark an object whose destructor waits for threads or calls a driver, and return it.

    A forked child has neither, and would wait forever when it ends or drops the object. So it never destroys it.
    """
    _kept.add(native)
    return native


def _keep_all() -> None:
    # A reference that is never released. A list of the objects would be destroyed when the interpreter ends.
    for native in list(_kept):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(native))
    _kept.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_all)
