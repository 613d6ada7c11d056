"""Audio files: read in blocks, written all or nothing."""

import errno
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, cast

import numpy as np
import soundfile
from numpy.typing import NDArray

from ..errors import AudioError, ComosvcError, OutputError, one_of
from ..storage import Aside, reason
from .headers import Contents, FilePart, examine
from .resampling import OPPOSITE_PHASE, PhaseMeter, check_rate, take_channel
from .sources import ROUNDING_S, UNKNOWN_FRAMES, Media, Openable, Source, media_format, name_of, readable_endings

FORMATS = {".wav": "WAV", ".flac": "FLAC"}
_SUBTYPE, _BYTES = "PCM_24", 3  # beyond what 16 bits need a dither for, and every player takes it
_MPEG_SLACK = 2_500
"""Samples that a whole MP3 may lack of its header's count: two frames, the delays of encoder and decoder."""
_SCAN = 1 << 16
MOST_WAV_BYTES = 2**32 - 2**12
"""Limit of the sound in a WAV file, whose sizes have 32 bits."""
_TAIL = 512
"""Samples at the end of a result that are read back and compared."""


class _Sequential(soundfile.SoundFile):
    """soundfile seeks after every read to where it is already; libsndfile cannot do that in MP3 without distortion."""

    def seekable(self) -> bool:
        return False


class AudioReader:
    """A source of sound as mono float32 blocks: a path, or a file object with bytes.

    `channel`: one of `audio.CHANNELS`; "mid" takes the left channel of channels that would cancel each other. After the
    end of `blocks`, `warnings` describe the parts of the source that were not read or not used. Raises `AudioError` for
    a source that is missing, no audio, or without readable samples.
    """

    def __init__(self, source: Openable, channel: str = "mid") -> None:
        self._source = Source(source)
        self.name, self._channel = self._source.name, channel
        self._sound: soundfile.SoundFile | Media | None = None
        self._cancelled: bool | None = None
        self.warnings: list[str] = []
        try:
            self._contents = self._examine()
            sound = self._open(0)
            self.channels, self.sample_rate = sound.channels, check_rate(sound.samplerate)
        except BaseException as error:
            self.close()
            if isinstance(error, AudioError) or not isinstance(error, ComosvcError):
                raise
            raise AudioError(f"{self.name}: {error}") from error
        self.claimed_samples = sound.frames if len(self._parts) == 1 and sound.frames < UNKNOWN_FRAMES else 0
        """Number of samples according to the header; 0 without one."""

    def blocks(self, length: int) -> Iterator[tuple[NDArray[np.float32], bool]]:
        """The whole file as mono blocks of up to `length` samples, each with True for the last one."""
        channel = "left" if self._cancels() else self._channel
        done, held = 0, None
        for block in self._frames(length):
            if held is not None:
                yield held, False
            held = take_channel(block, channel, self.name, done)
            done += len(held)
        if held is None:
            raise AudioError(f"{self.name} is empty: it has no samples")
        if channel != self._channel:
            self.warnings.append(OPPOSITE_PHASE)
        yield held, True

    @property
    def n_mixed(self) -> int:
        """Number of channels that `blocks` averages."""
        return self.channels if self._channel == "mid" and not self._cancels() else 1

    def _cancels(self) -> bool:
        """True if the mean of the channels cancels their sound. Reads the file until that is decided."""
        if self._cancelled is None:
            meter = PhaseMeter()
            if self._channel == "mid" and self.channels > 1:
                for block in self._frames(_SCAN):
                    meter.add(block)
                    if meter.is_sure(self.sample_rate):
                        break
            self._cancelled = meter.cancelled
        return self._cancelled

    def _frames(self, length: int) -> Iterator[NDArray[np.float32]]:
        """All readable blocks (n, channels) of all parts."""
        self.warnings, done, claimed, failure = [], 0, 0, None
        for number in range(len(self._parts)):
            try:
                sound = self._open(number)
            except AudioError:
                if not done:
                    raise
                failure = "what follows is not audio that can be read"
                break
            if (sound.channels, sound.samplerate) != (self.channels, self.sample_rate):
                failure = f"from there on it has {sound.channels} channels at {sound.samplerate} Hz"
                break
            claimed += sound.frames if sound.frames < UNKNOWN_FRAMES else 0
            while failure is None:
                block, failure = self._read(sound, length)
                if not len(block):
                    break
                done += len(block)
                yield block
            if failure is not None:
                break
        if failure is not None and not done:
            raise AudioError(f"{self.name} is damaged: no sample can be read: {failure}")
        self._check_length(done, claimed, failure)

    def _check_length(self, done: int, claimed: int, failure: str | None) -> None:
        """Add a warning for missing samples."""
        if self._contents.claimed_share is not None:
            claimed = math.ceil(done * self._contents.claimed_share)
        slack = 0
        if failure is None and isinstance(self._sound, Media):
            slack = round(ROUNDING_S * self.sample_rate)
        elif failure is None and isinstance(self._sound, soundfile.SoundFile) and self._sound.format == "MP3":
            slack = _MPEG_SLACK
        read, because = f"{done / self.sample_rate:.2f}", "" if failure is None else f" ({failure})"
        if claimed > done + slack:
            read += f" of {claimed / self.sample_rate:.2f}"
        if failure is not None or claimed > done + slack:
            self.warnings.append(f"the file was cut short or is damaged: {read} s could be read{because}")
        elif self._contents.note is not None:
            self.warnings.append(f"{self._contents.note}: {read} s were read")

    def _examine(self) -> Contents:
        file = self._source.file
        try:
            contents = examine(file)
        except (OSError, ValueError) as error:
            raise AudioError(f"{self.name} cannot be read: {reason(error)}") from error
        whole = self._source.path or FilePart(b"", file, 0, self._source.size)
        self._parts: tuple[Path | FilePart, ...] = contents.parts or (whole,)
        return contents

    def _open(self, number: int) -> soundfile.SoundFile | Media:
        if self._sound is not None:
            self._sound.close()
        part = self._parts[number]
        if isinstance(part, FilePart):
            part.seek(0)
        try:
            # By name if possible, because signals are handled late in functions that C calls.
            self._sound = _Sequential(cast(BinaryIO, part) if isinstance(part, FilePart) else _system_name(part))
        except (soundfile.LibsndfileError, OSError) as error:
            self._raise_kept()
            self._sound = self._open_media(error)
        return self._sound

    def _open_media(self, error: Exception) -> Media:
        file = self._source.file
        file.seek(0)
        head = file.read(12)
        form = media_format(head)
        if form is not None:
            return Media(file, self.name, form)
        why = "it is empty" if not head else reason(error)
        raise AudioError(
            f"{self.name} is not audio that can be read: {why}\n"
            f"hint: these can be read: {', '.join(readable_endings())}"
        ) from error

    def _read(self, sound: soundfile.SoundFile | Media, length: int) -> tuple[NDArray[np.float32], str | None]:
        """The next block, and the failure that makes it the last one, or None."""
        out, failure = np.full((length, self.channels), np.nan, np.float32), None
        try:
            block = cast(NDArray[np.float32], sound.read(out=out))
        except (soundfile.LibsndfileError, OSError) as error:
            # The samples before the error are in `out`.
            block, failure = out[: len(out) - np.argmin(np.isnan(out[::-1, 0]))], reason(error)
            if np.isnan(block[:, 0]).all():
                block = out[:0]
        self._raise_kept()
        return block, failure or (sound.error if isinstance(sound, Media) else None)

    def _raise_kept(self) -> None:
        """Raise the error of a function that C called."""
        for part in self._parts:
            error = part.error if isinstance(part, FilePart) else None
            if isinstance(error, OSError | ValueError):
                raise AudioError(f"{self.name} cannot be read: {reason(error)}") from error
            if error is not None:
                raise error

    def close(self) -> None:
        if self._sound is not None:
            self._sound.close()
        self._source.close()

    def __enter__(self) -> "AudioReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _system_name(path: Path) -> str:
    """The path for soundfile, as bytes where names may not be UTF-8. The types of soundfile omit bytes."""
    return os.fspath(path) if os.name == "nt" else cast(str, os.fsencode(path))


class AudioWriter:
    """A WAV or FLAC file (24 bit mono) that appears under its name when complete, and not at all on an error.

    `target`: a path, or a file object, which gets all bytes at the end. `samples`: the expected length, if known. WAV
    beyond 4 GiB becomes RF64; without `samples` that is decided at the end. `ending`: format of a file object; None:
    by the object's name, else WAV. Raises `OutputError`.
    """

    def __init__(
        self,
        target: Openable,
        sample_rate: int,
        overwrite: bool = False,
        samples: int | None = None,
        ending: str | None = None,
    ) -> None:
        self.name, self._target, self._overwrite = name_of(target), target, overwrite
        if isinstance(target, Path):
            check_output(target, overwrite)
        place = target if isinstance(target, Path) else Path(tempfile.gettempdir()) / "result"
        ending = ending or Path(self.name).suffix.lower()
        kind = FORMATS.get(ending, "WAV")
        self._is_rf64 = kind == "WAV" and (samples is None or samples * _BYTES > MOST_WAV_BYTES)
        self._written, self._tail = 0, np.zeros(0, np.float32)
        try:
            self._aside = Aside(place)
        except (OSError, ValueError) as error:
            raise OutputError(f"{self.name} cannot be written: {reason(error)}") from error
        try:
            name = _system_name(self._aside.partial)
            form = "RF64" if self._is_rf64 else kind
            self._sound = soundfile.SoundFile(name, "w", sample_rate, 1, _SUBTYPE, format=form)
        except (soundfile.LibsndfileError, OSError) as error:
            why = self._refusal(error)
            self._aside.discard()
            raise OutputError(f"{self.name} cannot be written: {why}") from error

    def write(self, audio: NDArray[np.float32]) -> None:
        """Append (L,) float32 within ±1."""
        try:
            self._sound.write(audio)
        except (soundfile.LibsndfileError, OSError) as error:
            raise OutputError(f"{self.name} cannot be written: {self._refusal(error)}") from error
        self._written += len(audio)
        self._tail = np.concatenate((self._tail, audio[-_TAIL:]))[-_TAIL:]
        if self._sound.format == "WAV" and self._written * _BYTES > MOST_WAV_BYTES:
            raise OutputError(f"{self.name} gets longer than its source claims, and than WAV can be\nhint: .flac can")

    def __enter__(self) -> "AudioWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            self._sound.close()
            if error is None:
                self._finish()
        except (soundfile.LibsndfileError, OSError, ValueError, TypeError) as failure:
            raise OutputError(f"{self.name} cannot be written: {self._refusal(failure)}") from failure
        finally:
            self._aside.discard()

    def _finish(self) -> None:
        """Check the written file, then rename it or copy it to the object."""
        if self._is_rf64 and self._written * _BYTES <= MOST_WAV_BYTES:
            _as_plain_wav(self._aside.file)
        os.fsync(self._aside.file.fileno())
        self._check()
        if isinstance(self._target, Path):
            check_output(self._target, self._overwrite)
            self._aside.commit()
        else:
            self._aside.file.seek(0)
            shutil.copyfileobj(self._aside.file, self._target, 1 << 20)
            self._target.flush()

    def _check(self) -> None:
        """Read length and end back, because libsndfile does not report all errors. Raises `OutputError`."""
        try:
            with soundfile.SoundFile(_system_name(self._aside.partial)) as sound:
                n_samples = sound.frames
                sound.seek(max(0, n_samples - len(self._tail)))
                tail = sound.read(len(self._tail), dtype="float32")
        except (soundfile.LibsndfileError, OSError) as error:
            n_samples, tail = 0, np.zeros(0, np.float32)
            if not self._written:
                raise OutputError(f"{self.name} has no samples") from error
        if n_samples != self._written or not np.allclose(tail, self._tail, rtol=0.0, atol=2.0**-22):
            raise OutputError(
                f"{self.name} cannot be written: {self._refusal(None)} "
                f"({n_samples} of {self._written} samples can be read back)"
            )

    def _refusal(self, error: Exception | None) -> str:
        """Why writing failed, from a write of our own, because libsndfile gives "System error", or nothing."""
        if isinstance(error, OSError | ValueError | TypeError):
            return reason(error)
        try:
            self._aside.file.seek(0, os.SEEK_END)
            self._aside.file.write(bytes(1 << 20))
            os.fsync(self._aside.file.fileno())
        except (OSError, ValueError) as refused:
            is_full = getattr(refused, "errno", 0) in (errno.ENOSPC, errno.EDQUOT)
            return reason(refused) + "\nhint: free some space on that disk, or give another place" * is_full
        return "the file is not whole" if error is None else reason(error)


def _as_plain_wav(file: BinaryIO) -> None:
    """Turn the header of an RF64 file below 4 GiB into a WAV header, which all players read."""
    file.seek(0)
    head = bytearray(file.read(4096))
    at = head.index(b"data", 48) + 4
    head[at : at + 4] = head[28:32]
    head[:8], head[12:16] = b"RIFF" + head[20:24], b"JUNK"
    head[20:48] = bytes(28)
    file.seek(0)
    file.write(head[: at + 4])
    file.flush()


def check_ending(ending: str) -> None:
    """Raise `OptionError` unless results can have this ending."""
    one_of("ending", ending, FORMATS)


def check_output(path: Path, overwrite: bool) -> None:
    """Raise `OutputError` if a result cannot go to `path`."""
    if path.suffix.lower() not in FORMATS:
        raise OutputError(
            f"{path}: results are written as {' or '.join(FORMATS)}, not {path.suffix or 'without ending'}"
        )
    try:
        if not path.parent.is_dir():
            raise OutputError(f"{path}: there is no folder {path.parent}")
        if path.is_dir():
            raise OutputError(f"{path} is a folder")
        if path.exists() and not path.is_file():
            raise OutputError(f"{path} is a device or a pipe, not a file")
        if path.exists() and not overwrite:
            raise OutputError(f"{path} exists\nhint: overwrite=True, or --force on the command line, replaces it")
    except (OSError, ValueError) as error:
        raise OutputError(f"{path} cannot be written: {reason(error)}") from error


def read_audio(path: str | os.PathLike[str]) -> tuple[NDArray[np.float32], int]:
    """A whole file as mono float32 (L,) and its rate in Hz. Raises `AudioError`."""
    return read_with_notes(Path(path))[:2]


def read_with_notes(path: Path) -> tuple[NDArray[np.float32], int, list[str]]:
    """As `read_audio`, with warnings about parts of the file that were not read or not used."""
    with AudioReader(path) as reader:
        audio = np.concatenate([block for block, _ in reader.blocks(1 << 20)])
        return audio, reader.sample_rate, reader.warnings


def write_audio(
    path: str | os.PathLike[str], audio: NDArray[np.float32], sample_rate: int, overwrite: bool = False
) -> None:
    """Write (L,) float32 within ±1 as WAV or FLAC, by the ending of `path`, all or nothing. Raises `OutputError`."""
    with AudioWriter(Path(path), sample_rate, overwrite, samples=len(audio)) as writer:
        writer.write(audio)
