"""Opens a voice bundle: an uncompressed zip, or its unpacked folder. Checks everything before use.

Trust model, for a bundle and hashes written by an attacker: opening the bundle or converting with it runs no code of
the bundle, reads no other file than graphs in the cache, and writes none. All faults of a bundle raise `BundleError`.
Numbers are within their ranges (`limits`) and graphs are plain (`graph_file`) before an engine gets them. The hashes
find damage, not forgery. A graph may still take any time and memory when it runs, and give bad sound. TensorRT engines
are code and outside this promise. So is OpenVINO, which has operators that read and write out of bounds:
`providers.openvino` gives it no graph with those that are known. For voices from strangers use ONNX Runtime, as
provider "auto" does.
"""

import json
import os
import stat
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BundleError, ComosvcError
from ..storage import MismatchError, decode, sha256
from .file_kinds import not_a_voice
from .graphs import check_graph_file
from .manifest import MANIFEST_FILE, GraphEntry, Manifest, from_json

SUFFIX = ".comosvc"
ENGINES_FOLDER = "engines"
_MANIFEST_LIMIT = 2 << 20  # bytes; a manifest is some kilobytes
_GRAPH_LIMIT = (2 << 30) - 1  # bytes; the most that protobuf takes, and so ONNX
_TENSORS_LIMIT = 256 << 20  # bytes; embeddings are some kilobytes, probes some hundred
_MOST_MEMBERS, _DIRECTORY_LIMIT = 1_000, 1 << 20  # files of a zip, bytes of its directory; a bundle has about 15
_END = struct.Struct("<4s4H2IH")  # the end record of a zip
_LOCATOR_SIZE = 20  # bytes; the record before the end record in the 64-bit form


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its manifest, the singers' embeddings (n, D) float32 and access to its files."""

    origin: str
    """Path or shipped name, for messages."""
    manifest: Manifest
    embeddings: NDArray[np.float32]
    _store: "_Store"
    given_home: Path | None = None
    """Used instead of `comosvc_home()`."""

    @property
    def home(self) -> Path:
        """Folder of large shared graphs and of engines. Raises `ComosvcError` for a user without a home folder."""
        return self.given_home or comosvc_home()

    def graph_bytes(self, name: str) -> bytes:
        """The ONNX file of graph `name` in fp32, as `entry_bytes` gives it."""
        return self.entry_bytes(name, self.manifest.graphs[name])

    def entry_bytes(self, name: str, entry: GraphEntry) -> bytes:
        """The ONNX file of an entry of the manifest for graph `name`.

        Raises `BundleError` unless the hash is the manifest's and the graph is plain (`graph_file`). Every engine and
        every other reader of ONNX files gets graphs from here.
        """
        inside = (self._store.read(file, _GRAPH_LIMIT) for file in entry.files)
        data = b"".join(inside) if entry.files else self._blob(name, entry)
        what = f"{self.origin}: {' + '.join(entry.files) or name}"
        _verify(data, entry.sha256, what)
        check_graph_file(data, f"{what}: the {name} graph")
        return data

    def entry_size(self, entry: GraphEntry) -> int | None:
        """Size in bytes of the ONNX file of an entry; None for a file of the cache that is missing there."""
        if entry.files:
            return sum(map(self._store.size, entry.files))
        path = self._cached(entry)
        return path.stat().st_size if path.is_file() else None

    def read(self, name: str) -> bytes:
        """Contents of a file other than graphs. Compares its hash if the manifest has one. Raises `BundleError`."""
        data = self._store.read(name, _TENSORS_LIMIT)
        if name in self.manifest.files:
            _verify(data, self.manifest.files[name], f"{self.origin}: {name}")
        return data

    def all_files(self) -> dict[str, bytes]:
        """Contents of all files by name, also of those that the manifest does not name. Compares no hashes.

        Leaves out `ENGINES_FOLDER`: engines are code for one kind of GPU, and never read from a .comosvc file.
        """
        names = [name for name in self._store.names() if not name.startswith(f"{ENGINES_FOLDER}/")]
        return {name: self._store.read(name, _GRAPH_LIMIT) for name in names}

    def verify(self) -> None:
        """Compare the hash of every file that the manifest names. Raises `BundleError`."""
        for entries in (self.manifest.graphs, *self.manifest.variants.values()):
            for name, entry in entries.items():
                self.entry_bytes(name, entry)
        _read_embeddings(self._store, self.manifest, self.origin)
        for name in self.manifest.files:
            self.read(name)

    def _cached(self, entry: GraphEntry) -> Path:
        return self.home / "blobs" / entry.sha256

    def _blob(self, name: str, entry: GraphEntry) -> bytes:
        path = self._cached(entry)
        if not path.is_file():
            raise BundleError(
                f"{self.origin}: the {name} graph is not inside the bundle and not in {path.parent}\n"
                f"hint: put the file with SHA-256 {entry.sha256} there under that name, or ask for a full bundle "
                "(comosvc-export pack --full)"
            )
        with _reading(f"{self.origin}: {path}"):
            return path.read_bytes()


def open_bundle(model: str | os.PathLike[str], home: Path | None = None) -> Bundle:
    """Open a shipped voice by name, a .comosvc file or its unpacked folder.

    `home` is where large shared graphs lie (`blobs/<sha256>`); None: `comosvc_home()`. Raises `BundleError`.
    """
    path = _locate(model)
    origin = os.fspath(model)
    try:
        store = _Folder(path, origin) if path.is_dir() else _Zip(path, origin)
        text = store.read(MANIFEST_FILE, _MANIFEST_LIMIT)
    except BundleError as error:
        raise BundleError(not_a_voice(path, origin) or str(error)) from error
    manifest = from_json(text, origin)
    embeddings = _read_embeddings(store, manifest, origin)
    return Bundle(origin, manifest, embeddings, store, home)


def comosvc_home() -> Path:
    """Folder of data that bundles share: $COMOSVC_HOME, or `cache_folder()`. Raises `ComosvcError`."""
    given = os.environ.get("COMOSVC_HOME")
    return Path(given) if given else cache_folder()


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/comosvc, or ~/.cache/comosvc. Raises `ComosvcError` for a user who has no home folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if cache.is_absolute():
        return cache / "comosvc"
    with suppress(RuntimeError):  # HOME is not set, and the system has no entry for the user id
        if os.environ.get("HOME") != "":
            return Path.home() / ".cache" / "comosvc"
    raise ComosvcError(
        "this user has no home folder to keep graphs and engines in\n"
        "hint: set COMOSVC_HOME to a folder, one that can be written to if something is to be kept"
    )


def shipped_voices() -> dict[str, Path]:
    """Voices that came with the package: name to file."""
    folder = Path(__file__).parents[1] / "data"
    return {path.stem: path for path in sorted(folder.glob(f"*{SUFFIX}"))}


def _locate(model: str | os.PathLike[str]) -> Path:
    shipped = shipped_voices()
    if isinstance(model, str) and model in shipped:
        return shipped[model]
    path = Path(model).absolute()  # graphs are also read later, when the process may work elsewhere
    with _reading(os.fspath(model)):
        if path.exists():
            if not path.is_dir() and not path.is_file():
                raise BundleError(f"{os.fspath(model)} is a pipe or a device; a voice is a file or a folder")
            return path
    names = ", ".join(shipped) or "none"
    raise BundleError(
        f"no voice {os.fspath(model)!r}: neither a file or folder nor a shipped voice (shipped: {names})\n"
        f"hint: give the path of a {SUFFIX} file, of its unpacked folder, or a shipped name"
    )


@contextmanager
def _reading(what: str, hint: str = "") -> Iterator[None]:
    """Turns errors of libraries (damaged data) and of the system (odd paths) into a `BundleError`."""
    try:
        yield
    except ComosvcError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}" if isinstance(error, KeyError | EOFError) else str(error)
        raise BundleError(f"{what} cannot be read: {reason}{hint}") from error


def load_tensors(data: bytes, what: str) -> dict[str, NDArray]:
    """The arrays of a safetensors file. Raises `BundleError` for anything else, and for types that numpy lacks."""
    from safetensors.numpy import load

    with _reading(f"{what} is not a safetensors file, or one of other types; it"):
        return load(data)


def _read_embeddings(store: "_Store", manifest: Manifest, origin: str) -> NDArray[np.float32]:
    name = manifest.singer_embedding_file
    data = store.read(name, _TENSORS_LIMIT)
    _verify(data, manifest.singer_embedding_sha256, f"{origin}: {name}")
    embeddings = load_tensors(data, f"{origin}: {name}").get("embedding")
    width = manifest.model.singer_channels
    if embeddings is None or embeddings.ndim != 2 or embeddings.shape[1] != width or embeddings.dtype != np.float32:
        found = "none" if embeddings is None else f"{embeddings.dtype} {embeddings.shape}"
        raise BundleError(f"{origin}: {name} must hold `embedding` (singers, {width}) float32, found {found}")
    beyond = [key for key, singer in manifest.singers.items() if singer.index >= len(embeddings)]
    if beyond or not np.isfinite(embeddings).all():
        singers = ", ".join(beyond) or "all"
        raise BundleError(f"{origin}: {name} has {len(embeddings)} rows and no usable one for {singers}")
    return embeddings


def _verify(data: bytes, wanted: str, what: str) -> None:
    if (found := sha256(data)) != wanted:
        raise BundleError(
            f"{what} has SHA-256 {found}, the manifest says {wanted}: it was damaged or changed\n"
            "hint: fetch the bundle again"
        )


def _checked_name(name: str, origin: str) -> str:
    """`name` if it is a plain relative path inside the bundle, on every system. Raises `BundleError`."""
    path = PurePosixPath(name)
    plain = name and not path.is_absolute() and "\\" not in name and ":" not in name and "\0" not in name
    if not plain or any(part in ("", ".", "..") for part in name.split("/")):
        raise BundleError(f"{origin}: {name!r} is not a path inside the bundle")
    return name


class _Store:
    """Files of a bundle by name: a zip or a folder. Raises `BundleError`."""

    _hint = ""

    def __init__(self, path: Path, origin: str) -> None:
        self._path, self._origin = path, origin

    def names(self) -> list[str]:
        """Names of all files, also of those that the manifest does not name."""
        raise NotImplementedError

    def size(self, name: str) -> int:
        """Bytes of the file `name`."""
        with _reading(f"{self._origin}: {name}"):
            size = self._size(_checked_name(name, self._origin))
        if size is None:
            other = "; this is not a voice bundle" if name == MANIFEST_FILE else ""
            raise BundleError(f"{self._origin}: {name} is missing{other}")
        return size

    def read(self, name: str, most: int) -> bytes:
        """Contents of the file `name`, of at most `most` bytes."""
        if (size := self.size(name)) > most:
            raise BundleError(f"{self._origin}: {name} has {size} bytes; at most {most} are read")
        with _reading(f"{self._origin}: {name}", self._hint):
            return self._read(name)

    def _size(self, name: str) -> int | None:
        raise NotImplementedError

    def _read(self, name: str) -> bytes:
        raise NotImplementedError


class _Folder(_Store):
    def __init__(self, path: Path, origin: str) -> None:
        super().__init__(path.resolve(), origin)

    def names(self) -> list[str]:
        with _reading(self._origin):
            paths = sorted(self._path.rglob("*"))
            if links := [path for path in paths if path.is_symlink()]:
                raise BundleError(f"{links[0]} is a link; a bundle holds plain files\nhint: replace it by its target")
            return [path.relative_to(self._path).as_posix() for path in paths if path.is_file()]

    def _size(self, name: str) -> int | None:
        path = (self._path / name).resolve()
        if not path.is_relative_to(self._path):
            raise BundleError(f"{self._origin}: {name} leads out of the bundle, to {path}")
        return path.stat().st_size if path.is_file() else None

    def _read(self, name: str) -> bytes:
        return (self._path / name).read_bytes()


class _Zip(_Store):
    _hint = "\nhint: fetch the bundle again"

    def __init__(self, path: Path, origin: str) -> None:
        super().__init__(path, origin)
        self._members = dict[str, zipfile.ZipInfo]()
        try:
            _check_directory(path)
            with zipfile.ZipFile(path) as archive:
                self._take(archive.infolist())
        except BundleError:
            raise
        except Exception as error:  # `zipfile` raises errors of many types for damaged archives: EOFError, ...
            raise BundleError(
                f"{origin} is not a voice bundle: {error}\nhint: a bundle is a {SUFFIX} file or its unpacked folder"
            ) from error

    def _take(self, infos: list[zipfile.ZipInfo]) -> None:
        for info in infos:
            name = info.filename
            _checked_name(name.removesuffix("/"), self._origin)
            # Sums of the stored sizes then bound what is read, so no archive can unfold into more than its own size.
            if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
                raise BundleError(
                    f"{self._origin}: {name} is compressed; a bundle is an uncompressed zip\n"
                    f"hint: unpack it, then: comosvc-export pack FOLDER -o voice{SUFFIX}"
                )
            if info.flag_bits & 1 or name in self._members or stat.S_ISLNK(info.external_attr >> 16):
                raise BundleError(f"{self._origin}: {name} is encrypted, a link, or there twice")
            self._members[name] = info
        if (total := sum(info.file_size for info in infos)) > self._path.stat().st_size:
            raise BundleError(f"{self._origin}: its files claim {total} bytes, more than the archive has")

    def names(self) -> list[str]:
        return [name for name in self._members if not name.endswith("/")]

    def _size(self, name: str) -> int | None:
        return self._members[name].file_size if name in self._members else None

    def _read(self, name: str) -> bytes:
        with zipfile.ZipFile(self._path) as archive:
            return archive.read(self._members[name])


def _check_directory(path: Path) -> None:
    """Raise `zipfile.BadZipFile` unless the directory of the archive is small: `zipfile` reads all of it.

    Archives with a comment and those of the 64-bit form are refused: both can hide another directory, and bundles have
    neither.
    """
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _END.size - _LOCATOR_SIZE))
        tail = file.read()
    if len(tail) < _END.size or not tail[-_END.size :].startswith(b"PK\5\6"):
        raise zipfile.BadZipFile("it does not end as a zip without a comment does")
    _, _, _, _, members, size, _, comment = _END.unpack(tail[-_END.size :])
    if tail.startswith(b"PK\6\7") or comment:
        raise zipfile.BadZipFile("it has a comment, or is of the 64-bit form")
    if members > _MOST_MEMBERS or size > _DIRECTORY_LIMIT:
        raise zipfile.BadZipFile(f"it has {members} files; a bundle has {_MOST_MEMBERS} at most")


PARITY_FILE = "parity.json"


@dataclass(frozen=True)
class VariantRecord:
    """One precision: SHA-256 of its measured graphs, reasons for graphs that stayed in fp32, and the figures."""

    graphs: dict[str, str]
    versions: dict[str, str]
    kept_fp32: dict[str, str]
    facts: dict[str, Any]
    rows: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class ParityFile:
    """SHA-256 of the measured fp32 graphs, their comparisons with torch, and the other precisions by name."""

    graphs: dict[str, str]
    rows: tuple[dict[str, Any], ...]
    variants: dict[str, VariantRecord] = field(default_factory=dict)

    def measured(self, precision: str) -> dict[str, str]:
        """SHA-256 by name of the graphs measured in `precision`."""
        if precision == "fp32":
            return self.graphs
        return self.variants[precision].graphs if precision in self.variants else {}


def read_parity(bundle: Bundle) -> ParityFile:
    """Read `parity.json`. Raises `BundleError` unless the file is there, unchanged and complete."""
    what = f"{bundle.origin}: {PARITY_FILE}"
    try:
        return decode(ParityFile, json.loads(bundle.read(PARITY_FILE)), PARITY_FILE)
    except (ValueError, RecursionError, MismatchError) as error:
        raise BundleError(f"{what} is not what an export writes: {error}") from error


def kept_fp32(bundle: Bundle) -> list[tuple[str, str, str]]:
    """Rows (precision, graph, reason) of the graphs that stayed in float32 in another precision."""
    if PARITY_FILE not in bundle.manifest.files:
        return []
    variants = read_parity(bundle).variants
    return [(name, *kept) for name, record in variants.items() for kept in record.kept_fp32.items()]
