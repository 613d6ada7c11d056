"""Atomic files, SHA-256, and strict reading of JSON into frozen dataclasses."""

import dataclasses
import hashlib
import os
import socket
import types
import typing
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from uuid import uuid4

from .errors import abridged

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


T = TypeVar("T")


class MismatchError(ValueError):
    """The data does not fit the dataclass; the message names the place."""


def decode(kind: type[T], data: Any, where: str) -> T:
    """`data` (what `json.loads` gives) as an instance of `kind`.

    `kind` may be a dataclass, str, int, float, bool, `tuple[X, ...]`, `tuple[X, Y]`, `dict[str, X]`, `X | None`, a
    Literal or Any. `where` is the place named in a `MismatchError`, for instance "graphs.acoustic".
    """
    return typing.cast(T, _decode(kind, data, where))


def encode(value: Any) -> Any:
    """The inverse of `decode`: dataclasses to dicts, tuples to lists, so that `json.dumps` takes it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: encode(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    return value


def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, as `object_pairs_hook`. Raises `ValueError` for a key that stands twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object has the same key twice")
    return found


def _decode(kind: Any, data: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return data
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, data, where)
    if origin in (typing.Union, types.UnionType):
        return _union(arguments, data, where)
    if origin is typing.Literal:
        _require(data in arguments, where, f"one of {', '.join(map(repr, arguments))}", data)
        return data
    if origin is tuple:
        _require(isinstance(data, list | tuple), where, "a list", data)
        kinds = arguments[:1] * len(data) if arguments[-1] is Ellipsis else arguments
        _require(len(data) == len(kinds), where, f"a list of {len(kinds)}", data)
        return tuple(
            _decode(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(zip(kinds, data, strict=True))
        )
    if origin is dict:
        _require(isinstance(data, dict), where, "an object", data)
        return {key: _decode(arguments[1], value, f"{where}.{key}") for key, value in data.items()}
    allowed, name = ((int, float), "a number") if kind is float else (kind, kind.__name__)
    _require(isinstance(data, allowed) and (kind is bool or not isinstance(data, bool)), where, name, data)
    try:
        return float(data) if kind is float else data
    except OverflowError:
        raise MismatchError(f"{where} is {abridged(data)}, which no float holds") from None


def _dataclass(kind: Any, data: Any, where: str) -> Any:
    _require(isinstance(data, dict), where, "an object", data)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    if unknown := sorted(set(data) - set(fields)):
        raise MismatchError(f"{where} has unknown keys: {', '.join(unknown)} (known: {', '.join(fields)})")
    missing = dataclasses.MISSING
    required = {name for name, f in fields.items() if f.default is missing and f.default_factory is missing}
    if lacking := sorted(required - data.keys()):
        raise MismatchError(f"{where} lacks {', '.join(lacking)}")
    hints = typing.get_type_hints(kind)
    return kind(**{name: _decode(hints[name], value, f"{where}.{name}") for name, value in data.items()})


def _union(kinds: tuple[Any, ...], data: Any, where: str) -> Any:
    if data is None and types.NoneType in kinds:
        return None
    for kind in kinds:
        if kind is types.NoneType:
            continue
        try:
            return _decode(kind, data, where)
        except MismatchError:
            if dataclasses.is_dataclass(kind):
                raise
    names = " or ".join("null" if kind is types.NoneType else getattr(kind, "__name__", str(kind)) for kind in kinds)
    raise MismatchError(f"{where} must be {names}, got {abridged(data)}")


def _require(holds: bool, where: str, wanted: str, data: Any) -> None:
    if not holds:
        raise MismatchError(f"{where} must be {wanted}, got {abridged(data)}")
