"""Sources of sound: paths, pipes and file objects, all as seekable files."""

import io
import os
import select
import shlex
import stat
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO, cast

from .errors import AudioError
from .media import ENDINGS as MEDIA_ENDINGS
from .media import has_pyav, media_hint
from .storage import reason

STDIN = "-"
READABLE = (
    *(".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".aifc"),
    *(".au", ".snd", ".w64", ".rf64", ".caf"),
)
"""Endings of the sound files that are taken from a folder; a file given by name may have any ending."""
MOST_PIPED_BYTES = 4 << 30
"""Limit of the temporary copy of a pipe."""
NO_WRITER_S = 5.0
"""Seconds of waiting for a program that opens the other end of a named pipe."""
STALLED_S = 600.0
"""Seconds of waiting for the next bytes of a named pipe."""

Openable = Path | BinaryIO


class Source:
    """An opened sound file. `file` is seekable; `path` is None unless `file` is the opened path itself.

    Pipes and objects that are not seekable are copied into a temporary file of at most `MOST_PIPED_BYTES`. Seekable
    objects are read from their start and stay open. Raises `AudioError`.
    """

    def __init__(self, source: Openable) -> None:
        self.name = name_of(source)
        self.path: Path | None = None
        self._is_ours = True
        try:
            if isinstance(source, Path):
                self.file = self._open(source)
            elif source.seekable():
                self.file, self._is_ours = source, False
            else:
                self.file = _spool(lambda: source.read(1 << 20), self.name)
            self.size = self.file.seek(0, io.SEEK_END)
            if not isinstance(cast(object, self.file.read(0)), bytes):
                raise AudioError(f"{self.name} gives text, not bytes\nhint: open(path, 'rb')")
        except FileNotFoundError as error:
            raise AudioError(f"{self.name}: no such file") from error
        except (OSError, ValueError, AttributeError) as error:
            raise AudioError(f"{self.name} cannot be read: {reason(error)}") from error

    def _open(self, path: Path) -> BinaryIO:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise AudioError(f"{path}: is a folder, not an audio file")
        if stat.S_ISFIFO(mode):
            return _spool_fifo(path)
        if not stat.S_ISREG(mode):
            raise AudioError(f"{path} is a device or a socket, not an audio file")
        self.path = path
        return path.open("rb")

    def close(self) -> None:
        if self._is_ours:
            self.file.close()


def name_of(source: object) -> str:
    """Name of a source or a result in messages: its path, or the name or type of an object."""
    if isinstance(source, str | os.PathLike):
        return os.fspath(cast(str, source))
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else f"<{type(source).__name__}>"


def _spool(read: Callable[[], bytes | None], name: str) -> BinaryIO:
    """A temporary file with all bytes of `read`, which returns nothing at the end."""
    file = tempfile.TemporaryFile("w+b")  # noqa: SIM115 - closed by `Source.close`
    try:
        while data := read():
            file.write(data)
            if file.tell() > MOST_PIPED_BYTES:
                raise AudioError(
                    f"{name} gave more than {MOST_PIPED_BYTES >> 30} GiB\nhint: write it into a file first"
                )
    except BaseException:
        file.close()
        raise
    return cast(BinaryIO, file)


def _spool_fifo(path: Path) -> BinaryIO:
    pipe = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return _spool(lambda: _next_bytes(pipe, path), os.fspath(path))
    finally:
        os.close(pipe)


def _next_bytes(pipe: int, path: Path) -> bytes:
    """The next bytes of a pipe; b"" at its end. Raises `AudioError` after a long wait."""
    start = time.monotonic()
    while not select.select([pipe], [], [], 0.1)[0]:
        limit_s = NO_WRITER_S
        try:
            if data := os.read(pipe, 1 << 20):
                return data
        except BlockingIOError:  # a program holds the other end
            limit_s = STALLED_S
        if (waited := time.monotonic() - start) > limit_s:
            raise AudioError(f"{path} is a pipe, and nothing came out of it for {waited:.0f} s")
    return os.read(pipe, 1 << 20)


def is_readable(path: Path) -> bool:
    """True if files with this ending are taken from a folder."""
    suffix = path.suffix.lower()
    return suffix in READABLE or (suffix in MEDIA_ENDINGS and has_pyav())


def unread_reason(path: Path) -> str | None:
    """Why a sound file in a folder is not read, by its ending; None for endings of other files."""
    suffix = path.suffix.lower()
    if suffix in MEDIA_ENDINGS and not has_pyav():
        return f"{suffix} files need PyAV\n{media_hint(path.name)}"
    if suffix in _OTHER_SOUND:
        return f"{suffix} files are not read\nhint: ffmpeg -i {shlex.quote(path.name)} song.wav"
    return None


_OTHER_SOUND = (".mp2", ".mpc", ".dsf", ".dff", ".ra", ".rm", ".spx", ".mid", ".midi", ".voc", ".shn")


def files_in(folder: Path, paths: Iterable[Path] | None = None) -> list[Path]:
    """Plain files of a folder or of `paths`, sorted, without names that begin with a dot. Raises `AudioError`."""
    try:
        found = folder.iterdir() if paths is None else paths
        return sorted(path for path in found if not path.name.startswith(".") and path.is_file())
    except OSError as error:
        raise AudioError(f"{folder} cannot be read: {reason(error)}") from error
