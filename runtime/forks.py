"""Objects of native libraries in a forked child, where the threads of the objects are missing."""

import ctypes
import os
import weakref
from typing import TypeVar

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
