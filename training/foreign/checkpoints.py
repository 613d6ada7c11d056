"""Checkpoints of torch's two formats, read without running code from them."""

import mmap
import struct
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor, UntypedStorage

from ...runtime.voice.file_kinds import FileKind, file_kind
from ..errors import ForeignFileError
from .inert_pickle import PickleError, read_pickle

_STREAM_MAGIC, _STREAM_VERSION = 0x1950A86A20F9469CFC6C, 1001
_DTYPES = {
    f"torch.{name}Storage": dtype
    for name, dtype in {
        "Double": torch.float64,
        "Float": torch.float32,
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "Long": torch.int64,
        "Int": torch.int32,
        "Short": torch.int16,
        "Char": torch.int8,
        "Byte": torch.uint8,
        "Bool": torch.bool,
    }.items()
}
_PICKLE_LIMIT = 256 << 20  # bytes; the pickle of a large model without its tensors is below 1 MB
_BROKEN_FILE = (RuntimeError, OSError, EOFError, struct.error, zipfile.BadZipFile)
_TROUBLE = (ValueError, TypeError, LookupError, AttributeError, OverflowError, MemoryError, *_BROKEN_FILE)


def read_checkpoint(path: Path) -> Any:
    """Content of a `torch.save` file: dictionaries, lists, numbers, text, tensors on the CPU; foreign objects as
    `Record`. Nothing is imported or called. Tensors of zip files are mapped, not read.

    torch's own `weights_only=True` refuses foreign objects, and hashes tuples of tuples, which takes exponential time.
    Raises `ForeignFileError`, naming the file.
    """
    read = _read_zip if _is_zip(path) else _read_stream
    try:
        return read(path)
    except _TROUBLE as error:
        raise ForeignFileError(
            f"{path} is damaged, or no checkpoint: {error}\nhint: fetch it again and compare its size"
        ) from error


def _is_zip(path: Path) -> bool:
    """False for the stream format. Raises `ForeignFileError` for other files."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise ForeignFileError(f"{path} cannot be read: {error.strerror or error}") from error
    if head.startswith(b"PK\x03\x04"):
        _check_zip(path)
        return True
    if head.startswith(b"\x80") and size > 16:
        return False
    raise ForeignFileError(f"{path} is no checkpoint: {_describe(path, head)}")


def _describe(path: Path, head: bytes) -> str:
    hints = {
        FileKind.EMPTY: "fetch it again",
        FileKind.POINTER: "git lfs pull, or download the file itself",
        FileKind.WEB_PAGE: "the download gave a page instead of the file; open the link in a browser",
        FileKind.SAFETENSORS: "only the content encoder is taken from safetensors",
        FileKind.ONNX: "give the checkpoint that the graph was exported from",
        FileKind.SETTINGS: "configurations are --config and --vocoder-config of comosvc-export import",
    }
    kind = file_kind(path)
    if kind in hints:
        return f"it is {kind}\nhint: {hints[kind]}"
    return f"{kind} begins with {head.hex(' ')}\nhint: torch.save files begin with 50 4b 03 04 or with 80"


def _check_zip(path: Path) -> None:
    """A whole archive, nothing in it compressed: what is read is never more than the file's size. All of it is what
    was written: torch does not look at the checksums. That costs one reading of the file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            _check_members(path, infos)
            # torch.serialization.set_crc32_options(False) leaves all of them 0.
            wrong = archive.testzip() if any(info.CRC for info in infos) else None
    except _TROUBLE as error:
        raise ForeignFileError(
            f"{path} is damaged: its end is missing or broken ({error})\nhint: the download broke off; fetch it again"
        ) from error
    if wrong is not None:
        raise ForeignFileError(
            f"{path} is damaged: {wrong} in it is not what its checksum says\nhint: fetch it again, compare its SHA-256"
        )


def _check_members(path: Path, infos: list[zipfile.ZipInfo]) -> None:
    names = {info.filename.partition("/")[2] for info in infos}
    if "data.pkl" not in names or "constants.pkl" in names:
        if file_kind(path) is FileKind.VOICE:
            raise ForeignFileError(
                f"{path} is {FileKind.VOICE}, no checkpoint\nhint: it is finished: comosvc-convert song.wav -m {path}"
            )
        what = "a TorchScript archive" if "constants.pkl" in names else "a zip archive without data.pkl"
        raise ForeignFileError(f"{path} is {what}, no checkpoint\nhint: give the file that torch.save wrote")
    if any(info.compress_type != zipfile.ZIP_STORED for info in infos):
        raise ForeignFileError(f"{path} is compressed; torch.save does not do that\nhint: unpack it first")
    if sum(info.file_size for info in infos) > path.stat().st_size:
        raise ForeignFileError(f"{path} is damaged: parts of it overlap\nhint: fetch it again")


def _read_zip(path: Path) -> Any:
    whole = cast(UntypedStorage, UntypedStorage.from_file(str(path), False, path.stat().st_size))
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        infos = {info.filename.partition("/")[2]: info for info in archive.infolist()}
        if infos["data.pkl"].file_size > _PICKLE_LIMIT:
            raise ValueError(f"a pickle of {infos['data.pkl'].file_size} bytes")

        def member(name: str) -> UntypedStorage:
            info = infos[name]
            file.seek(info.header_offset)
            header = struct.unpack("<4s22xHH", file.read(30))
            if header[0] != b"PK\x03\x04":
                raise ValueError(f"the place of {name} is broken")
            return _part(whole, info.header_offset + 30 + header[1] + header[2], info.file_size)

        # zipfile's own `read` refuses files that were written without checksums.
        if "byteorder" in infos and _bytes(member("byteorder")) != b"little":
            raise ValueError("its numbers are big-endian")
        return read_pickle(
            BytesIO(_bytes(member("data.pkl"))), _BUILDERS, _storage_of_id(lambda key: member(f"data/{key}"))
        )


def _read_stream(path: Path) -> Any:
    """torch before 1.6: magic number, version, system, the object, the keys of its tensors, the tensors."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        stream = cast(IO[bytes], mapped)
        magic, version = (read_pickle(stream, {}) for _ in range(2))
        if (magic, version) != (_STREAM_MAGIC, _STREAM_VERSION):
            raise PickleError("a pickle, but not torch's")
        read_pickle(stream, {})  # byte order and sizes of types
        start = stream.tell()
        sizes: dict[str, int] = {}

        def note_size(value: Any) -> None:
            if value[0] == "storage":
                sizes[str(value[2])] = _DTYPES[value[1].name].itemsize

        read_pickle(stream, {}, note_size)
        keys = read_pickle(stream, {})
        storages = {}
        for key in keys:
            (count,) = struct.unpack("<q", stream.read(8))
            storages[str(key)] = _copied(stream.read(count * sizes[str(key)]), count * sizes[str(key)])
        stream.seek(start)
        return read_pickle(stream, _BUILDERS, _storage_of_id(storages.__getitem__))


def _storage_of_id(storage: Callable[[str], UntypedStorage]) -> Callable[[Any], Any]:
    """What makes ("storage", type, key, device, count, view) a storage and its type."""

    def resolve(value: Any) -> Any:
        if not isinstance(value, tuple) or value[0] != "storage":
            return None  # ("module", class, source code, ...): torch once kept the sources of modules
        dtype = _DTYPES[value[1].name]
        found = storage(str(value[2]))
        view = value[5] if len(value) > 5 else None
        if view is not None:
            found = _part(found, view[1] * dtype.itemsize, view[2] * dtype.itemsize)
        return found, dtype

    return resolve


def _part(storage: UntypedStorage, start: int, size: int) -> UntypedStorage:
    if not 0 <= start <= start + size <= storage.nbytes():
        raise ValueError(f"bytes {start} to {start + size} of {storage.nbytes()}")
    return cast(UntypedStorage, storage[start : start + size])


def _bytes(storage: UntypedStorage) -> bytes:
    return torch.empty(0, dtype=torch.uint8).set_(storage).numpy().tobytes()


def _copied(data: bytes, size: int) -> UntypedStorage:
    if len(data) != size:
        raise ValueError(f"{size} bytes of numbers expected, {len(data)} there")
    if not size:
        return UntypedStorage(0)
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).untyped_storage()


def _tensor(
    storage: tuple[UntypedStorage, torch.dtype], offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> Tensor:
    """The tensor of torch's `_rebuild_tensor_v2`, once it is sure to lie inside its storage, each number once."""
    data, dtype = storage
    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or any(not isinstance(n, int) or n < 0 for n in numbers):
        raise ValueError(f"a tensor of size {size} and stride {stride} at {offset}")
    count, last = 1, offset
    for n, step in zip(size, stride, strict=True):
        count *= n
        last += (n - 1) * step
    available = data.nbytes() // dtype.itemsize
    if count and (last >= available or count > available):
        raise ValueError(f"a tensor of size {size} and stride {stride} at {offset} in {available} numbers")
    return torch.empty(0, dtype=dtype).set_(data, offset, size, stride)


_BUILDERS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": lambda pairs=(): {key: value for key, value in pairs if isinstance(key, str | int)},
    "collections.defaultdict": lambda *_: {},
    "_codecs.encode": lambda text, _="latin1": text.encode("latin-1"),
    "torch.Size": lambda sizes=(): tuple(sizes),
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
}
