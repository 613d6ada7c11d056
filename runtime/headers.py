"""What a sound file's header claims, compared with what the file holds.

libsndfile believes headers: it reads no more than they claim, and where they claim too much it reads the rest without
saying so. Headers are wrong in files that were cut off, that were written into a pipe or by a recorder that crashed,
that passed 4 GiB, or that were joined by `cat`.
"""

import io
import struct
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from .media import media_format
from .mpeg import count_frames, first_frame, frame_of, lead_frame, read_at, skip_id3

_JUNK = 4096
"""Fewer bytes than this behind the sound are padding or a tag; more, unless they are chunks, are sound."""
_RIFF_LIMIT = 0xFFFFFFFF
_MOST_CHUNKS = 10_000
_EBML, _SEGMENT = b"\x1aE\xdf\xa3", b"\x18S\x80g"
"""Of Matroska and WebM."""
_CUT = "the file was cut short, and how much is missing is not known"


@dataclass(frozen=True)
class Contents:
    """What is to be read of a file, and how much its header claims."""

    parts: tuple["Part", ...] = ()
    """What libsndfile reads right, one after another; none if it reads the file itself right."""
    claimed_share: float | None = None
    """How much sound the header claims, as a share of what is there; None where it claims the same, or nothing."""
    note: str | None = None
    """A warning about the header."""


class Part:
    """A file for libsndfile: `head`, and then what `file` holds from byte `start` to byte `end`.

    libsndfile calls it from C, where an exception would be printed and lost: it is kept in `error`.
    """

    def __init__(self, head: bytes, file: BinaryIO, start: int, end: int) -> None:
        self._head, self._file, self._start = head, file, start
        self._length, self._at = len(head) + max(0, end - start), 0
        self.error: BaseException | None = None

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._length}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, count: int) -> bytes:
        data = b""
        try:
            wanted = max(0, min(count, self._length - self._at))
            data = self._head[self._at : self._at + wanted]
            if len(data) < wanted:
                self._file.seek(self._at + len(data) - len(self._head) + self._start)
                data += self._file.read(wanted - len(data))
        except BaseException as error:  # a signal's too
            self.error = self.error or error
        self._at += len(data)
        return data


class _Container(NamedTuple):
    """A format made of chunks: how the head of one is laid out, and which holds the sound."""

    sound: bytes
    size: str
    """`struct` format of a chunk's size."""
    first: int
    """Byte that the first chunk begins at."""
    align: int = 2
    counts_head: bool = False
    """The size includes the head of the chunk."""

    @property
    def head(self) -> int:
        return len(self.sound) + struct.calcsize(self.size)


_W64_TAIL = bytes.fromhex("f3acd3118cd100c04f8edb8a")
_CONTAINERS = {
    b"RIFF": _Container(b"data", "<I", 12),
    b"RIFX": _Container(b"data", ">I", 12),
    b"RF64": _Container(b"data", "<I", 12),
    b"FORM": _Container(b"SSND", ">I", 12),
    b"caff": _Container(b"data", ">q", 8, align=1),
    b"riff": _Container(b"data" + _W64_TAIL, "<q", 40, align=8, counts_head=True),
}


def examine(file: BinaryIO) -> Contents:
    """Read the header of a seekable file. What is no sound, or of a format that needs no help, has default contents."""
    size = file.seek(0, io.SEEK_END)
    magic = read_at(file, 0, 12)
    kind = _CONTAINERS.get(magic[:4])
    if kind is not None and not (magic[:4] == b"FORM" and magic[8:12] not in (b"AIFF", b"AIFC")):
        return _examine_chunks(file, size, magic[:4], kind)
    if magic[:4] == b".snd":
        return _examine_au(file, size)
    if magic[:4] == b"OggS":
        return _examine_ogg(file, size)
    if magic[:4] == _EBML:
        return Contents(note=None if _is_whole_matroska(file, size) else _CUT)
    first = skip_id3(file, 0)
    if first == 0 and media_format(magic) is None:
        first = first_frame(file)
    if frame_of(read_at(file, first, 4)) is not None:
        return _examine_mpeg(file, size, first)
    return Contents((Part(b"", file, first, size),) if first else ())


def _chunks(file: BinaryIO, at: int, end: int, kind: _Container) -> list[tuple[bytes, int, int]]:
    """Name, place and size of the chunks from byte `at`, up to the one that holds the sound, or does not fit."""
    found = []
    while at + kind.head <= end and len(found) < _MOST_CHUNKS:
        head = read_at(file, at, kind.head)
        name = head[: len(kind.sound)]
        (size,) = struct.unpack(kind.size, head[len(name) :])
        if kind.counts_head:
            size -= kind.head
        found.append((name, at, size))
        at += kind.head + size
        at += -at % kind.align
        if name == kind.sound or size < 0:
            break
    return found


def _is_chunks(file: BinaryIO, at: int, end: int, kind: _Container) -> bool:
    """Whether chunks, or a tag of MP3, lie from `at` to the end of the file, rather than sound."""
    for begin in {at, at + -at % kind.align}:
        chunks = _chunks(file, begin, end, kind)
        named = all(32 <= byte < 127 for name, _, _ in chunks for byte in name[:4])
        whole = all(0 <= size <= end + 1 - place - kind.head for _, place, size in chunks)
        if (chunks and named and whole) or skip_id3(file, begin) != begin:
            return True
    return False


def _joints(file: BinaryIO, at: int, end: int, kind: _Container, magic: bytes) -> list[int]:
    """Where further files of the kind begin behind the sound, which ends at byte `at`."""
    for begin in {at, at + -at % kind.align}:
        if found := [place for name, place, _ in _chunks(file, begin, end, kind) if name[:4] == magic]:
            return found
    return []


def _examine_chunks(file: BinaryIO, size: int, magic: bytes, kind: _Container) -> Contents:
    chunks = _chunks(file, kind.first, size, kind)
    if not chunks or chunks[-1][0] != kind.sound:
        return Contents()
    _, place, claimed = chunks[-1]
    start = place + kind.head
    there, narrow = size - start, kind.size[1] == "I"
    ds64 = next((at for name, at, _ in chunks if name == b"ds64"), None) if magic == b"RF64" else None
    if ds64 is not None and claimed == _RIFF_LIMIT:
        (claimed,) = struct.unpack("<q", read_at(file, ds64 + 16, 8).ljust(8, b"\0"))
    elif narrow and (claimed >= 0xFFFF0000 or 0x7FFF0000 <= claimed <= 0x80000000) and claimed != there:
        claimed = -1  # what is written into a pipe before the length is known

    def fixed(sound: int) -> tuple[Part, ...]:
        return (_with_size(file, magic, place, sound, ds64),)

    if claimed < 0:
        # libsndfile reads other formats to the end, up to 4 GiB.
        return Contents(fixed(there) if magic in (b"caff", b"RF64") or there >= _RIFF_LIMIT else ())
    if claimed >= there:
        share = claimed / there if claimed > there > 0 else None
        return Contents(fixed(there) if share and magic == b"caff" else (), share)  # a short CAF file is refused
    rest = there - claimed
    joints = _joints(file, start + claimed, size, kind, magic)
    if joints:
        ends = (*joints, size)
        return Contents(tuple(Part(b"", file, *part) for part in zip((0, *joints), ends, strict=True)))
    if rest < (_JUNK if claimed else 1) or _is_chunks(file, start + claimed, size, kind):
        return Contents()
    wrapped = claimed + (rest >> 32 << 32)
    if narrow and wrapped > claimed and (wrapped == there or _is_chunks(file, start + wrapped, size, kind)):
        return Contents(fixed(wrapped))  # the size is that of 4 GiB less
    return Contents(fixed(there), note=_note(claimed, there))


def _note(claimed: int, there: int) -> str:
    says = f"gives {claimed / there:.1%} of its length" if claimed else "gives no length"
    return f"the file's header {says}, so that it was read to its end"


def _with_size(file: BinaryIO, magic: bytes, place: int, sound: int, ds64: int | None) -> Part:
    """The file with `sound` bytes of sound according to its header; WAV beyond 4 GiB as RF64."""
    kind = _CONTAINERS[magic]
    start = place + kind.head
    head, at, narrow = bytearray(read_at(file, 0, start)), place + len(kind.sound), kind.size[1] == "I"
    if ds64 is not None:
        head[ds64 + 8 : ds64 + 24] = struct.pack("<QQ", start + sound - 8, sound)
        head[at:start] = struct.pack("<I", _RIFF_LIMIT)
    elif narrow and sound >= _RIFF_LIMIT and magic == b"RIFF":
        head[at:start] = struct.pack("<I", _RIFF_LIMIT)
        head[:12] = b"RF64\xff\xff\xff\xffWAVE" + struct.pack("<4sIQQQI", b"ds64", 28, start + 28 + sound, sound, 0, 0)
    else:
        claimed = min(sound, _RIFF_LIMIT) if narrow else sound + kind.head * kind.counts_head
        head[at:start] = struct.pack(kind.size, claimed)
    return Part(bytes(head), file, start, start + sound)


def _examine_au(file: BinaryIO, size: int) -> Contents:
    start, claimed = struct.unpack(">II", read_at(file, 4, 8).ljust(8, b"\0"))
    there = size - start
    if claimed in (_RIFF_LIMIT, there) or there <= 0 or 0 <= there - claimed < _JUNK <= claimed:
        return Contents()
    if claimed > there:
        return Contents(claimed_share=claimed / there)
    head = read_at(file, 0, start)
    head = head[:8] + b"\xff\xff\xff\xff" + head[12:]
    return Contents((Part(head, file, start, size),), note=_note(claimed, there))


def _examine_ogg(file: BinaryIO, size: int) -> Contents:
    """Pages: streams that follow each other are parts, and the last page of a whole file says that it is the last."""
    at, starts, in_head, ended = 0, [0], True, False
    while len(head := read_at(file, at, 27)) == 27 and head[:4] == b"OggS":
        flags, segments = head[5], file.read(head[26])
        begins = bool(flags & 2)
        if begins and not in_head:
            starts.append(at)
        in_head, ended = begins, bool(flags & 4)
        at += 27 + len(segments) + sum(segments)
    ended = ended and at <= size
    ends = (*starts[1:], size)
    parts = () if len(starts) == 1 else tuple(Part(b"", file, *ends) for ends in zip(starts, ends, strict=True))
    return Contents(parts, note=None if ended else _CUT)


def _is_whole_matroska(file: BinaryIO, size: int) -> bool:
    """Whether the segment, which holds all but the EBML header, ends within the file, or does not say its size."""
    at = 0
    for magic in (_EBML, _SEGMENT):
        head = read_at(file, at, 12)
        n_bytes = 9 - head[4].bit_length() if len(head) == 12 else 0
        if head[:4] != magic or not 1 <= n_bytes <= 8:
            return True
        unknown = (1 << 7 * n_bytes) - 1
        length = int.from_bytes(head[4 : 4 + n_bytes], "big") & unknown
        at += 4 + n_bytes + length
    return length == unknown or at <= size


def _examine_mpeg(file: BinaryIO, size: int, first: int) -> Contents:
    """Count the frames from byte `first` on: without a Xing header libsndfile guesses from the first frame, and with
    one it reads no further.

    It gets a part in any case: by name it would read a `._` file of macOS beside the MP3 instead.
    """
    frame = frame_of(read_at(file, first, 4))
    assert frame is not None
    data = bytearray(read_at(file, first, frame.size))
    at, note = frame.side_info, None
    is_layer_3 = data[1] >> 1 & 3 == 1  # only there libmpg123 looks for headers
    if is_layer_3 and data[36:40] != b"VBRI":
        n_frames = count_frames(file, first, size)
        if data[at : at + 4] not in (b"Xing", b"Info") or len(data) < at + 16 or not data[at + 7] & 1:
            # A frame of the lowest rate that has room for the header, in front of the others.
            lead = bytearray(lead_frame(bytes(data[:4])))
            lead[at : at + 12] = b"Xing" + struct.pack(">II", 1, n_frames)
            return Contents((Part(bytes(lead), file, first, size),))
        claimed, counted = int.from_bytes(data[at + 8 : at + 12], "big"), n_frames - 1
        if counted > claimed:
            data[at + 8 : at + 12] = struct.pack(">I", counted)
            note = _note(claimed, counted) if counted > claimed + 2 else None
        if data[at + 7] & 2:  # libmpg123 prints a warning where it differs from the file's
            data[at + 12 : at + 16] = struct.pack(">I", min(size - first, _RIFF_LIMIT))
    return Contents((Part(bytes(data), file, first + len(data), size),), note=note)
