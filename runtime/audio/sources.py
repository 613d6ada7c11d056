"""Sources of sound as seekable files: paths, pipes, file objects, and through PyAV the formats libsndfile lacks."""

import importlib
import io
import os
import select
import shlex
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from ..errors import AudioError, install
from ..storage import reason

STDIN = "-"
READABLE = (
    *(".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".aifc"),
    *(".au", ".snd", ".w64", ".rf64", ".caf"),
)
"""Endings of the sound files that are taken from a folder; a file given by name may have any ending."""
MEDIA_ENDINGS = (
    *(".m4a", ".m4b", ".mp4", ".mov", ".aac", ".webm", ".mka"),
    *(".mkv", ".wma", ".wv", ".ape", ".amr", ".ac3", ".tta"),
)
_OTHER_SOUND = (".mp2", ".mpc", ".dsf", ".dff", ".ra", ".rm", ".spx", ".mid", ".midi", ".voc", ".shn")
MOST_PIPED_BYTES = 4 << 30
"""Limit of the temporary copy of a pipe."""
NO_WRITER_S = 5.0
"""Seconds of waiting for a program that opens the other end of a named pipe."""
STALLED_S = 600.0
"""Seconds of waiting for the next bytes of a named pipe."""
_MAGICS = {
    (0, b"\x1aE\xdf\xa3"): "matroska",
    (0, b"\x30\x26\xb2\x75"): "asf",
    (0, b"wvpk"): "wv",
    (0, b"MAC "): "ape",
    (0, b"#!AMR"): "amr",
    (0, b"\x0b\x77"): "ac3",
    (0, b"TTA1"): "tta",
    (4, b"ftyp"): "mov",
    (4, b"moov"): "mov",
    (4, b"mdat"): "mov",
    (0, b"\xff\xf1"): "aac",
    (0, b"\xff\xf9"): "aac",
}
"""Offset and first bytes of each format, and FFmpeg's name of it. Other formats are refused: playlists open files."""
UNKNOWN_FRAMES = 2**60
"""Number of samples of a file whose header has none; libsndfile gives a larger one."""
ROUNDING_S = 0.002  # an MP4 file may give the length of its sound in thousandths of a second

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


def media_format(head: bytes) -> str | None:
    """FFmpeg's name for the format of a file that begins with `head` (12 bytes), or None."""
    return next((name for (at, magic), name in _MAGICS.items() if head[at:].startswith(magic)), None)


def has_pyav() -> bool:
    """True if PyAV can be imported."""
    try:
        importlib.import_module("av")
    except ImportError:
        return False
    return True


def media_hint(name: str) -> str:
    """A hint to install PyAV or to convert the file `name` first."""
    return f"hint: {install('media')} reads it; or convert it first: ffmpeg -i {shlex.quote(name)} song.wav"


class Media:
    """The first sound track of a file that PyAV reads, without the samples that its encoder added.

    Has the used part of the interface of `soundfile.SoundFile`. Raises `AudioError`.
    """

    def __init__(self, file: BinaryIO, name: str, form: str) -> None:
        if not has_pyav():
            raise AudioError(f"{name} is not audio that can be read here: it needs PyAV\n{media_hint(name)}")
        self._av: Any = importlib.import_module("av")
        file.seek(0, io.SEEK_SET)
        try:
            self._container = self._av.open(file, format=form)
            stream: Any = next(iter(self._container.streams.audio), None)
        except (self._av.error.FFmpegError, OSError, ValueError) as error:
            raise AudioError(f"{name} is not audio that can be read: {reason(error)}") from error
        # Tracks of codecs unknown to FFmpeg have neither.
        self.samplerate: int = getattr(stream, "rate", None) or 0
        self.channels: int = getattr(stream, "channels", None) or 0
        if not self.samplerate or not self.channels:
            raise AudioError(f"{name} has no sound track that can be read")
        self._stream = stream
        self._by_sample = stream.time_base == Fraction(1, self.samplerate)
        self.frames = (stream.duration if self._by_sample else None) or UNKNOWN_FRAMES
        self.error: str | None = None
        self._blocks, self._held = self._decoded(), np.zeros((0, self.channels), np.float32)

    def read(self, out: NDArray[np.float32]) -> NDArray[np.float32]:
        """Fill `out` (n, channels) with the next samples; fewer at the end."""
        n = 0
        while n < len(out):
            if not len(self._held):
                self._held = next(self._blocks, self._held)
                if not len(self._held):
                    break
            taken = self._held[: len(out) - n]
            out[n : n + len(taken)] = taken
            self._held, n = self._held[len(taken) :], n + len(taken)
        return out[:n]

    def close(self) -> None:
        self._container.close()

    def _decoded(self) -> Iterator[NDArray[np.float32]]:
        """Blocks (n, channels). The last packets give the end of the sound in the padded last frame."""
        resampler = self._av.AudioResampler(format="fltp", layout=self._stream.layout, rate=self.samplerate)
        held: list[NDArray[np.float32]] = []
        done = end = 0
        try:
            for packet in self._container.demux(self._stream):
                if packet.pts is not None:
                    end = max(end, packet.pts + packet.duration)
                for frame in packet.decode():
                    held += map(self._samples, resampler.resample(frame))
                while len(held) > 2:
                    done += len(held[0])
                    yield held.pop(0)
            held += map(self._samples, resampler.resample(None))
        except (self._av.error.FFmpegError, OSError, ValueError) as error:
            self.error = reason(error)
        if self._by_sample:
            start = self._stream.start_time or 0
            if end - start - self.frames > ROUNDING_S * self.samplerate:
                end = start + self.frames
            rest = np.concatenate(held or [self._held[:0]])
            yield rest[: max(0, end - start - done)]
        else:
            yield from held

    def _samples(self, frame: Any) -> NDArray[np.float32]:
        samples = np.ascontiguousarray(frame.to_ndarray().T)
        if samples.shape[1] != self.channels:
            raise ValueError(f"it goes on with {samples.shape[1]} channels")
        return samples


def readable_endings() -> tuple[str, ...]:
    """Endings of the sound files that are read here: `READABLE`, with PyAV also those of its formats."""
    return (*READABLE, *MEDIA_ENDINGS) if has_pyav() else READABLE


def is_readable(path: Path) -> bool:
    """True if files with this ending are taken from a folder."""
    return path.suffix.lower() in readable_endings()


def unread_reason(path: Path) -> str | None:
    """Why a sound file in a folder is not read, by its ending; None for endings of other files."""
    suffix = path.suffix.lower()
    if suffix in MEDIA_ENDINGS and not has_pyav():
        return f"{suffix} files need PyAV\n{media_hint(path.name)}"
    if suffix in _OTHER_SOUND:
        return f"{suffix} files are not read\nhint: ffmpeg -i {shlex.quote(path.name)} song.wav"
    return None


def files_in(folder: Path, paths: Iterable[Path] | None = None) -> list[Path]:
    """Plain files of a folder or of `paths`, sorted, without names that begin with a dot. Raises `AudioError`."""
    try:
        found = folder.iterdir() if paths is None else paths
        return sorted(path for path in found if not path.name.startswith(".") and path.is_file())
    except OSError as error:
        raise AudioError(f"{folder} cannot be read: {reason(error)}") from error
