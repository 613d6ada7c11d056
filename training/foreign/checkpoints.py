"""Checkpoints of torch's three formats, read without running what is in them."""

import logging
import mmap
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor, UntypedStorage

from ...runtime.voice.file_kinds import FileKind, file_kind
from ..errors import ForeignFileError
from .inert_pickle import Global, PickleError, read_pickle

logger = logging.getLogger(__name__)

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
_BROKEN_PICKLE = (ValueError, TypeError, LookupError, AttributeError, OverflowError, MemoryError)
_BROKEN_FILE = (RuntimeError, OSError, EOFError, struct.error, tarfile.TarError, zipfile.BadZipFile)
_TROUBLE = (*_BROKEN_PICKLE, *_BROKEN_FILE)
Storages = Callable[[str], UntypedStorage]


def read_checkpoint(path: Path) -> Any:
    """What `torch.save` wrote: dictionaries, lists, numbers, text, tensors on the CPU; foreign objects as `Record`.

    torch's own `weights_only=True` reads what has nothing but that; where it refuses, our reader does, in which nothing
    is imported or called. Tensors of zip files are mapped, not read. Raises `ForeignFileError`, naming the file.
    """
    kind = _kind(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols that it may not know
            return torch.load(path, map_location="cpu", weights_only=True, mmap=kind == "zip")
    except Exception as error:  # whatever a damaged or hostile file makes of it, the other reader says it in words
        logger.debug("%s: torch's weights_only reader says %s", path, error)
    try:
        return {"zip": _read_zip, "tar": _read_tar, "stream": _read_stream}[kind](path)
    except _TROUBLE as error:
        raise ForeignFileError(
            f"{path} is damaged, or no checkpoint: {error}\nhint: fetch it again and compare its size"
        ) from error


def _kind(path: Path) -> str:
    """zip, tar or stream, by the first bytes. Raises `ForeignFileError` for what is none of them."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise ForeignFileError(f"{path} cannot be read: {error.strerror or error}") from error
    if head.startswith(b"PK\x03\x04"):
        _check_zip(path)
        return "zip"
    if head[257:262] == b"ustar":
        return "tar"
    if head.startswith(b"\x80") and size > 16:
        return "stream"
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
    return f"{kind} begins with {head[:8].hex(' ')}\nhint: torch.save files begin with 50 4b 03 04 or with 80"


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
        if "byteorder" in infos and archive.read(infos["byteorder"]) != b"little":
            raise ValueError("its numbers are big-endian")
        data = archive.read(infos["data.pkl"])

        def storage(key: str) -> UntypedStorage:
            info = infos[f"data/{key}"]
            file.seek(info.header_offset)
            header = struct.unpack("<4s22xHH", file.read(30))
            start = info.header_offset + 30 + header[1] + header[2]
            if header[0] != b"PK\x03\x04" or start + info.file_size > whole.nbytes():
                raise ValueError(f"the place of tensor {key} is broken")
            return _part(whole, start, info.file_size)

        return read_pickle(BytesIO(data), _BUILDERS, _storage_of_id(storage))


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
        read_pickle(stream, {}, lambda value: _note_size(value, sizes))
        keys = read_pickle(stream, {})
        storages = {}
        for key in keys:
            (count,) = struct.unpack("<q", stream.read(8))
            storages[str(key)] = _copied(stream.read(count * sizes[str(key)]), count * sizes[str(key)])
        stream.seek(start)
        return read_pickle(stream, _BUILDERS, _storage_of_id(storages.__getitem__))


def _note_size(value: Any, sizes: dict[str, int]) -> None:
    if value[0] == "storage":
        sizes[str(value[2])] = _DTYPES[value[1].name].itemsize


def _read_tar(path: Path) -> Any:
    """torch 0.1: an archive of storages, tensors that are views of them, and the object, which names tensors by id."""
    with tarfile.open(path, "r:") as archive:
        made: dict[Any, Any] = {}
        storages = _member(archive, "storages")
        for _ in range(read_pickle(storages, {})):
            key, _, kind = read_pickle(storages, {})
            dtype = _DTYPES[cast(Global, kind).name]
            (count,) = struct.unpack("<q", storages.read(8))
            size = count * dtype.itemsize
            made[key] = (_copied(storages.read(size), size), dtype)
        for target, root, offset, count in read_pickle(storages, {}):
            storage, dtype = made[root]
            made[target] = (_part(storage, offset * dtype.itemsize, count * dtype.itemsize), dtype)
        tensors = _member(archive, "tensors")
        for _ in range(read_pickle(tensors, {})):
            key, root, _ = read_pickle(tensors, {})
            rank = struct.unpack("<i4x", tensors.read(8))[0]
            numbers = struct.unpack(f"<{2 * rank + 1}q", tensors.read(8 * (2 * rank + 1)))
            made[key] = _tensor(made[root], numbers[-1], numbers[:rank], numbers[rank:-1])
        return read_pickle(_member(archive, "pickle"), _BUILDERS, lambda value: made[int(value)])


def _member(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    file = archive.extractfile(name)
    if file is None:
        raise ValueError(f"{name} is no file")
    return BytesIO(file.read())


def _storage_of_id(storage: Storages) -> Callable[[Any], Any]:
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


def _ordered(pairs: Any = ()) -> dict[Any, Any]:
    return {key: value for key, value in pairs if isinstance(key, str | int)}


def _latin_1(text: str, _: str = "latin1") -> bytes:
    return text.encode("latin-1")


_BUILDERS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered,
    "collections.defaultdict": lambda *_: {},
    "_codecs.encode": _latin_1,
    "torch.Size": lambda sizes=(): tuple(sizes),
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
}
