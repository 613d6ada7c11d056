"""Objects of native libraries in a forked child, which has the objects without their threads."""

import ctypes
import os
import weakref
from typing import TypeVar

T = TypeVar("T")

_kept = weakref.WeakSet[object]()


def keep_in_forks(native: T) -> T:
    """Mark an object whose destructor waits for threads, or calls a driver, that a forked child does not have.

    A child never destroys it: without this, a child that ends or drops the object waits forever. Returns `native`.
    """
    _kept.add(native)
    return native


def _keep_all() -> None:
    # One reference that nothing gives back: a list of them would be destroyed too when the interpreter ends.
    for native in list(_kept):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(native))
    _kept.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_all)
