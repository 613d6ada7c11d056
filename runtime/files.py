"""Audio files: read in blocks, written all or nothing."""

import os
import uuid
import weakref
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import numpy as np
import soundfile
from numpy.typing import NDArray

from .audio import check_rate, mono
from .errors import AudioError, ComosvcError, OutputError

FORMATS = {".wav": "WAV", ".flac": "FLAC"}
READABLE = (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif", ".opus")
"""Endings that a folder is searched for; a file given by name may have any."""
_SUBTYPE = "PCM_24"  # beyond what 16 bits need a dither for, and every player takes it


class _Sequential(soundfile.SoundFile):
    """soundfile seeks after every read to where it is already; libsndfile cannot do that in MP3 without distortion."""

    def seekable(self) -> bool:
        return False


class AudioReader:
    """A file as mono float32 blocks. Raises `AudioError` for one that is missing, no audio, or damaged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.is_dir() or not path.exists():
            raise AudioError(f"{path}: {'is a folder, not an audio file' if path.is_dir() else 'no such file'}")
        self._file = self._open()
        self.channels, self.claimed_samples = self._file.channels, self._file.frames
        try:
            self.sample_rate = check_rate(self._file.samplerate)
        except ComosvcError as error:
            self._file.close()
            raise AudioError(f"{path}: {error}") from error

    def _open(self) -> soundfile.SoundFile:
        try:
            return _Sequential(os.fspath(self.path))
        except (soundfile.LibsndfileError, OSError) as error:
            raise AudioError(
                f"{self.path} is not audio that can be read: {_reason(error)}\nhint: WAV, FLAC, OGG and MP3 can be read"
            ) from error

    def blocks(self, length: int) -> Iterator[tuple[NDArray[np.float32], bool]]:
        """The whole file, from its start, in pieces of `length` samples, each with whether it is the last."""
        self._file.close()
        self._file = self._open()
        done, held = 0, self._read(length, 0)
        while len(held):
            following = self._read(length, done + len(held))
            yield held, len(following) == 0
            done, held = done + len(held), following

    def _read(self, length: int, first_sample: int) -> NDArray[np.float32]:
        try:
            block = self._file.read(length, dtype="float32", always_2d=True)
        except (soundfile.LibsndfileError, OSError) as error:
            raise AudioError(f"{self.path} is damaged after sample {first_sample}: {_reason(error)}") from error
        if len(block):
            return mono(block, os.fspath(self.path), first_sample)
        if first_sample == 0:
            raise AudioError(f"{self.path} is empty: it has no samples")
        return np.zeros(0, np.float32)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> "AudioReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AudioWriter:
    """A WAV or FLAC file (24 bit mono) that appears under its name when complete, and not at all on an error."""

    def __init__(self, path: Path, sample_rate: int, overwrite: bool = False) -> None:
        check_output(path, overwrite)
        self.path, self._overwrite = path, overwrite
        self._partial = path.with_name(f".{uuid.uuid4().hex}.partial")
        # Before there is a file: a signal may end the process at any line from here on.
        self._remove_partial = weakref.finalize(self, _remove, self._partial)
        kind = FORMATS[path.suffix.lower()]
        try:
            self._file = soundfile.SoundFile(os.fspath(self._partial), "w", sample_rate, 1, _SUBTYPE, format=kind)
        except (soundfile.LibsndfileError, OSError) as error:
            self._remove_partial()
            raise OutputError(f"{path} cannot be written: {_reason(error)}") from error

    def write(self, audio: NDArray[np.float32]) -> None:
        """Append (L,) float32 within ±1."""
        try:
            self._file.write(audio)
        except (soundfile.LibsndfileError, OSError) as error:
            raise OutputError(f"{self.path} cannot be written: {_reason(error)}\nhint: is the disk full?") from error

    def __enter__(self) -> "AudioWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            self._file.close()
            if error is None:
                check_output(self.path, self._overwrite)
                self._partial.replace(self.path)
        except (soundfile.LibsndfileError, OSError) as failure:
            raise OutputError(f"{self.path} cannot be written: {_reason(failure)}") from failure
        finally:
            self._remove_partial()


def _remove(path: Path) -> None:
    with suppress(OSError):  # a read-only file system refuses even to remove what is not there
        path.unlink(missing_ok=True)


def check_output(path: Path, overwrite: bool) -> None:
    """Raise `OutputError` if a result cannot go to `path`."""
    if path.suffix.lower() not in FORMATS:
        raise OutputError(
            f"{path}: results are written as {' or '.join(FORMATS)}, not {path.suffix or 'without ending'}"
        )
    if not path.parent.is_dir():
        raise OutputError(f"{path}: there is no folder {path.parent}")
    if path.is_dir():
        raise OutputError(f"{path} is a folder")
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists\nhint: overwrite=True, or --force on the command line, replaces it")


def read_audio(path: str | os.PathLike[str]) -> tuple[NDArray[np.float32], int]:
    """A whole file as mono float32 (L,) and its rate in Hz. Raises `AudioError`."""
    with AudioReader(Path(path)) as reader:
        return np.concatenate([block for block, _ in reader.blocks(1 << 20)]), reader.sample_rate


def write_audio(
    path: str | os.PathLike[str], audio: NDArray[np.float32], sample_rate: int, overwrite: bool = False
) -> None:
    """Write (L,) float32 within ±1 as WAV or FLAC, by the ending of `path`, all or nothing. Raises `OutputError`."""
    with AudioWriter(Path(path), sample_rate, overwrite) as writer:
        writer.write(audio)


def _reason(error: Exception) -> str:
    text = getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)
    return str(text).strip().rstrip(".")
