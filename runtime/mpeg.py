"""MPEG audio (MP3, MP2): frames one after another, without a file header, with tags before and behind them."""

import re
from typing import BinaryIO, NamedTuple

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


def read_at(file: BinaryIO, at: int, count: int) -> bytes:
    file.seek(at)
    return file.read(count)


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
