"""Formats that libsndfile does not read (AAC in MP4, WebM, WMA, ...), through PyAV, the `media` extra."""

import importlib
import io
import shlex
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from .errors import AudioError
from .extras import install
from .storage import reason

ENDINGS = (
    *(".m4a", ".m4b", ".mp4", ".mov", ".aac", ".webm", ".mka"),
    *(".mkv", ".wma", ".wv", ".ape", ".amr", ".ac3", ".tta"),
)
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
UNKNOWN_FRAMES = 2**62
ROUNDING_S = 0.002  # an MP4 file may give the length of its sound in thousandths of a second


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
    return f"hint: {install('media')} brings what reads it; or convert it first: ffmpeg -i {shlex.quote(name)} song.wav"


class Media:
    """The first sound track of such a file, from start to end, without the samples that its encoder added.

    Has what is used of `soundfile.SoundFile`. Raises `AudioError`.
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
