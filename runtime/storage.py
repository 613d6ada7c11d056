"""Atomic files: written beside their final name, renamed when complete, removed after a killed process. SHA-256."""

import hashlib
import os
import socket
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

try:
    import fcntl
except ImportError:  # Windows: a file that is open cannot be removed there, which serves as the lock
    fcntl = None

_SUFFIX = ".partial"


class Aside:
    """A new, empty file beside `path`, open for reading and writing as `file`; `commit` renames it to `path`.

    A file that is not committed is removed: by `discard`, when the object is collected, at the end of the process, or,
    after a killed process, by `remove_stale`. The process holds a lock on the file until then. The name of the file is
    short, also for a long `path`, and unique. Raises `OSError` or `ValueError`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        while True:
            self.partial = path.parent / f"{_prefix(path)}{os.getpid()}-{uuid4().hex[:12]}{_SUFFIX}"
            # Before there is a file: a signal may end the process at any line from here on.
            self._remove = weakref.finalize(self, _remove, self.partial)
            self.file = self.partial.open("x+b")
            if _lock(self.file):
                break
            self.file.close()  # another process took it for a stale one before it was locked

    def commit(self) -> None:
        """Write everything to the disk and rename the file to `path`, which it replaces."""
        self.file.flush()
        os.fsync(self.file.fileno())
        if fcntl is None:
            self.file.close()  # Windows renames no open file
        self.partial.replace(self.path)
        self.file.close()  # not before: that unlocks it
        self._remove.detach()

    def discard(self) -> None:
        """Remove the file unless it was committed."""
        self.file.close()
        self._remove()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside `path` to write to. It replaces `path` when the block ends, and is removed after an error."""
    aside = Aside(path)
    try:
        yield aside.partial
        aside.commit()
    finally:
        aside.discard()


def write_whole(path: Path, data: bytes) -> None:
    """Write the file `path`, all or nothing. Readers meanwhile see the old file or the new one."""
    with replacing(path) as partial:
        partial.write_bytes(data)


def sha256(data: bytes | memoryview) -> str:
    """Hexadecimal SHA-256."""
    return hashlib.sha256(data).hexdigest()


def remove_stale(folder: Path) -> None:
    """Remove the uncommitted files of killed processes of this machine in `folder`; those of live processes stay."""
    with suppress(OSError):
        for path in folder.glob(f".comosvc-{_host()}-*{_SUFFIX}"):
            with suppress(OSError):
                _remove_unlocked(path)


def reason(error: Exception) -> str:
    """Message of an error of the operating system or of a library, without file name and number."""
    text = getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)
    return str(text).strip().rstrip(".") or type(error).__name__


def _prefix(path: Path) -> str:
    return f".comosvc-{_host()}-{_digest(path.name)}-"


def _host() -> str:
    return _digest(socket.gethostname())


def _digest(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogatepass"))[:8]


def _lock(file: BinaryIO) -> bool:
    """Lock a new file; True if the file still exists."""
    if fcntl is None:
        return True
    with suppress(OSError):  # some network file systems have no locks
        fcntl.flock(file.fileno(), fcntl.LOCK_EX)
    return os.fstat(file.fileno()).st_nlink > 0


def _remove_unlocked(path: Path) -> None:
    """Remove a file that no process holds the lock of. Raises `OSError` where one does, or locks cannot be had."""
    if fcntl is None:
        path.unlink()
        return
    with path.open("rb") as file:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()


def _remove(path: Path) -> None:
    with suppress(OSError):  # read-only file systems refuse to remove even missing files
        path.unlink(missing_ok=True)
