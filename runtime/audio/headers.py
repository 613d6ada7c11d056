"""Compares the header of a sound file with its contents: containers of chunks, AU, Ogg, Matroska, MPEG (MP3, MP2)."""

import io
import re
import struct
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from .sources import media_format

_JUNK = 4096
"""Fewer bytes than this behind the sound are padding or a tag. More bytes are sound, unless they are chunks."""
_RIFF_LIMIT = 0xFFFFFFFF
_MOST_CHUNKS = 10_000
_EBML, _SEGMENT = b"\x1aE\xdf\xa3", b"\x18S\x80g"
"""First bytes of Matroska and WebM."""
_CUT = "the file was cut short, and how much is missing is not known"
_MOST_SEARCHES = 100_000
"""Limit of the searches for the next MPEG frame in one file."""
_START, _ROW = 1 << 14, 4
"""Bytes searched for the first MPEG frame, and consecutive frames that confirm it."""
_KBPS = {
    (1, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""Bit rates by version (2 also for 2.5) and layer, for the indices 1 to 14; layers 2 and 3 of version 2 are equal."""


@dataclass(frozen=True)
class Contents:
    """Readable parts of a file, and the claim of its header."""

    parts: tuple["FilePart", ...] = ()
    """Parts that libsndfile reads correctly, in order; empty if it reads the file itself correctly."""
    claimed_share: float | None = None
    """Claimed length as a share of the present sound; None for equal lengths and headers without one."""
    note: str | None = None
    """A warning about the header."""


class FilePart:
    """A file for libsndfile: `head`, then the bytes `start` to `end` of `file`.

    libsndfile calls the methods from C, where an exception would be printed and lost. `error` keeps it.
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
        except BaseException as error:  # also of a signal handler
            self.error = self.error or error
        self._at += len(data)
        return data


class _Container(NamedTuple):
    """A format made of chunks: layout of a chunk's head, name of the chunk with the sound."""

    sound: bytes
    size: str
    """`struct` format of a chunk's size."""
    first: int
    """Offset of the first chunk."""
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
    """Examine the header of a seekable file. Default contents for other files and for formats that need no help."""
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
    return Contents((FilePart(b"", file, first, size),) if first else ())


def _chunks(file: BinaryIO, at: int, end: int, kind: _Container) -> list[tuple[bytes, int, int]]:
    """Name, offset and size of the chunks from byte `at` on, up to the sound or to a chunk that does not fit."""
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
    """True if the bytes from `at` to the end of the file are chunks or a tag of MP3, not sound."""
    for begin in {at, at + -at % kind.align}:
        chunks = _chunks(file, begin, end, kind)
        named = all(32 <= byte < 127 for name, _, _ in chunks for byte in name[:4])
        whole = all(0 <= size <= end + 1 - place - kind.head for _, place, size in chunks)
        if (chunks and named and whole) or skip_id3(file, begin) != begin:
            return True
    return False


def _joints(file: BinaryIO, at: int, end: int, kind: _Container, magic: bytes) -> list[int]:
    """Offsets of further files of the kind behind the sound, which ends at byte `at`."""
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
        claimed = -1  # as written into a pipe, before the length is known

    def fixed(sound: int) -> tuple[FilePart, ...]:
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
        return Contents(tuple(FilePart(b"", file, *part) for part in zip((0, *joints), ends, strict=True)))
    if rest < (_JUNK if claimed else 1) or _is_chunks(file, start + claimed, size, kind):
        return Contents()
    wrapped = claimed + (rest >> 32 << 32)
    if narrow and wrapped > claimed and (wrapped == there or _is_chunks(file, start + wrapped, size, kind)):
        return Contents(fixed(wrapped))  # the size is 4 GiB, or a multiple, too small
    return Contents(fixed(there), note=_note(claimed, there))


def _note(claimed: int, there: int) -> str:
    says = f"gives {claimed / there:.1%} of its length" if claimed else "gives no length"
    return f"the file's header {says}, so that it was read to its end"


def _with_size(file: BinaryIO, magic: bytes, place: int, sound: int, ds64: int | None) -> FilePart:
    """The file with a header for `sound` bytes of sound; WAV beyond 4 GiB as RF64."""
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
    return FilePart(bytes(head), file, start, start + sound)


def _examine_au(file: BinaryIO, size: int) -> Contents:
    start, claimed = struct.unpack(">II", read_at(file, 4, 8).ljust(8, b"\0"))
    there = size - start
    if claimed in (_RIFF_LIMIT, there) or there <= 0 or 0 <= there - claimed < _JUNK <= claimed:
        return Contents()
    if claimed > there:
        return Contents(claimed_share=claimed / there)
    head = read_at(file, 0, start)
    head = head[:8] + b"\xff\xff\xff\xff" + head[12:]
    return Contents((FilePart(head, file, start, size),), note=_note(claimed, there))


def _examine_ogg(file: BinaryIO, size: int) -> Contents:
    """Contents of an Ogg file. Streams one after another are parts; the last page of a whole file has a mark."""
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
    parts = () if len(starts) == 1 else tuple(FilePart(b"", file, *ends) for ends in zip(starts, ends, strict=True))
    return Contents(parts, note=None if ended else _CUT)


def _is_whole_matroska(file: BinaryIO, size: int) -> bool:
    """True if the segment, all but the EBML header, ends within the file or has no size."""
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
    is_layer_3 = data[1] >> 1 & 3 == 1  # libmpg123 looks for headers in layer 3 only
    if is_layer_3 and data[36:40] != b"VBRI":
        n_frames = count_frames(file, first, size)
        if data[at : at + 4] not in (b"Xing", b"Info") or len(data) < at + 16 or not data[at + 7] & 1:
            # A frame of the lowest rate that has room for the header, in front of the others.
            lead = bytearray(lead_frame(bytes(data[:4])))
            lead[at : at + 12] = b"Xing" + struct.pack(">II", 1, n_frames)
            return Contents((FilePart(bytes(lead), file, first, size),))
        claimed, counted = int.from_bytes(data[at + 8 : at + 12], "big"), n_frames - 1
        if counted > claimed:
            data[at + 8 : at + 12] = struct.pack(">I", counted)
            note = _note(claimed, counted) if counted > claimed + 2 else None
        if data[at + 7] & 2:  # libmpg123 prints a warning where it differs from the file's
            data[at + 12 : at + 16] = struct.pack(">I", min(size - first, _RIFF_LIMIT))
    return Contents((FilePart(bytes(data), file, first + len(data), size),), note=note)


class Frame(NamedTuple):
    size: int
    samples: int
    side_info: int
    """Offset in bytes of a Xing header in the frame."""


def frame_of(head: bytes) -> Frame | None:
    """The frame that begins with the four bytes of `head`; None for other bytes."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version = {0: 2.5, 2: 2, 3: 1}.get(head[1] >> 3 & 3)
    layer, index, rate_index = 4 - (head[1] >> 1 & 3), head[2] >> 4, head[2] >> 2 & 3
    if version is None or layer == 4 or index in (0, 15) or rate_index == 3:
        return None
    kbps = _KBPS[1 if version == 1 else 2, layer if version == 1 else min(layer, 2)][index - 1]
    rate = (44_100, 48_000, 32_000)[rate_index] // (1 if version == 1 else 2 if version == 2 else 4)
    padding, is_mono = head[2] >> 1 & 1, head[3] >> 6 == 3
    if layer == 1:
        return Frame((12_000 * kbps // rate + padding) * 4, 384, 0)
    samples = 576 if layer == 3 and version != 1 else 1152
    side = {(1, False): 32, (1, True): 17, (0, False): 17, (0, True): 9}[int(version == 1), is_mono]
    return Frame(samples * 125 * kbps // rate + padding, samples, 4 + side)


def first_frame(file: BinaryIO) -> int:
    """Offset of the first of consecutive frames near the start of the file, as in recorded streams; 0 without them."""
    head = read_at(file, 0, _START)
    for found in re.finditer(rb"\xff", head):
        at = found.start()
        kind = _kind(head[at : at + 4].ljust(4, b"\0"))
        for _ in range(_ROW):
            frame = frame_of(head[at : at + 4])
            if frame is None or _kind(head[at : at + 4]) != kind:
                break
            at += frame.size
        else:
            return found.start()
    return 0


def lead_frame(head: bytes) -> bytes:
    """A silent frame of the kind of `head`, large enough for a Xing header."""
    for index in range(1, 15):
        tried = bytes((head[0], head[1] | 1, index << 4 | head[2] & 0x0C, head[3]))
        frame = frame_of(tried)
        if frame is not None and frame.size >= frame.side_info + 16:
            return tried.ljust(frame.size, b"\0")
    raise AssertionError(head)


def skip_id3(file: BinaryIO, at: int) -> int:
    """End of the ID3 tag at byte `at`; `at` without a tag."""
    head = read_at(file, at, 10)
    if head[:3] != b"ID3" or len(head) < 10:
        return at
    return at + 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))


def count_frames(file: BinaryIO, at: int, size: int) -> int:
    """Count the frames of the kind of the one at `at`. Skips headers and tags of joined files between them."""
    count, searched, block, base = 0, 0, b"", at
    kind = _kind(read_at(file, at, 4))
    while at + 4 <= size and searched < _MOST_SEARCHES:
        if not base <= at <= base + len(block) - 10:
            base, block = at, read_at(file, at, 1 << 20)
        head = block[at - base : at - base + 4]
        frame = frame_of(head)
        if frame is not None and _kind(head) == kind:
            count += at + frame.size <= size
            at += frame.size
        elif head[:3] == b"ID3":
            at = skip_id3(file, at)
        else:
            following = block.find(b"\xff", at - base + 1)
            at = base + (following if following >= 0 else len(block))
            searched += 1
    return count


def _kind(head: bytes) -> tuple[int, int]:
    """Version, layer and rate of a frame."""
    return head[1] & 0xFE, head[2] & 0x0C


def read_at(file: BinaryIO, at: int, count: int) -> bytes:
    file.seek(at)
    return file.read(count)
