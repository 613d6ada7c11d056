"""Open a voice bundle: one uncompressed zip, or the folder it unpacks to. Nothing is trusted before it is checked."""

import hashlib
import os
import stat
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .errors import BundleError, ComosvcError
from .manifest import MANIFEST_FILE, GraphEntry, Manifest, from_json

SUFFIX = ".comosvc"
_MANIFEST_LIMIT = 16 << 20  # bytes; a manifest is some kilobytes


class Store(Protocol):
    """Files of a bundle by name: a zip or a folder."""

    def read(self, name: str) -> bytes: ...

    def size(self, name: str) -> int: ...


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its manifest, the singers' embeddings (n, D) float32 and access to its files."""

    origin: str
    """Path or shipped name, for messages."""
    manifest: Manifest
    embeddings: NDArray[np.float32]
    _store: Store
    given_home: Path | None = None
    """A folder in place of `comosvc_home()`."""

    @property
    def home(self) -> Path:
        """Where large shared graphs and engines lie. Raises `ComosvcError` where there is no such place."""
        return self.given_home or comosvc_home()

    def graph_bytes(self, name: str) -> bytes:
        """The ONNX file of graph `name` in fp32, its hash verified. Raises `BundleError`."""
        return self.entry_bytes(name, self.manifest.graphs[name])

    def entry_bytes(self, name: str, entry: GraphEntry) -> bytes:
        """The ONNX file of an entry of the manifest for graph `name`, its hash verified. Raises `BundleError`."""
        data = self._blob(name, entry) if entry.file is None else self._store.read(entry.file)
        _verify(data, entry.sha256, f"{self.origin}: {entry.file or name}")
        return data

    def read(self, name: str) -> bytes:
        """Any file of the bundle by name, its hash not checked. Raises `BundleError`."""
        return self._store.read(name)

    def verify(self) -> None:
        """Read every file that the manifest names and compare its hash. Raises `BundleError`."""
        for entries in (self.manifest.graphs, *self.manifest.variants.values()):
            for name, entry in entries.items():
                self.entry_bytes(name, entry)
        _read_embeddings(self._store, self.manifest, self.origin)

    def _blob(self, name: str, entry: GraphEntry) -> bytes:
        path = self.home / "blobs" / entry.sha256
        if not path.is_file():
            raise BundleError(
                f"{self.origin}: the {name} graph is not inside the bundle and not in {path.parent}\n"
                f"hint: put the file with SHA-256 {entry.sha256} there under that name, or ask for a full bundle "
                "(comosvc-export pack --full)"
            )
        return path.read_bytes()


def open_bundle(model: str | os.PathLike[str], home: Path | None = None) -> Bundle:
    """Open a shipped voice by name, a .comosvc file or its unpacked folder.

    `home` is where large shared graphs lie (`blobs/<sha256>`); None: `comosvc_home()`. Raises `BundleError`.
    """
    path = _locate(model)
    origin = os.fspath(model)
    store: Store = _Folder(path, origin) if path.is_dir() else _Zip(path, origin)
    if store.size(MANIFEST_FILE) > _MANIFEST_LIMIT:
        raise BundleError(f"{origin}: {MANIFEST_FILE} has {store.size(MANIFEST_FILE)} bytes; that is no manifest")
    manifest = from_json(store.read(MANIFEST_FILE), origin)
    embeddings = _read_embeddings(store, manifest, origin)
    return Bundle(origin, manifest, embeddings, store, home)


def comosvc_home() -> Path:
    """Where things shared by several bundles are kept: $COMOSVC_HOME, or `cache_folder()`. Raises `ComosvcError`."""
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
    folder = Path(__file__).with_name("data")
    return {path.stem: path for path in sorted(folder.glob(f"*{SUFFIX}"))}


def _locate(model: str | os.PathLike[str]) -> Path:
    shipped = shipped_voices()
    if isinstance(model, str) and model in shipped:
        return shipped[model]
    path = Path(model).absolute()  # graphs are also read later, when the process may work elsewhere
    if path.exists():
        return path
    names = ", ".join(shipped) or "none"
    raise BundleError(
        f"no voice {os.fspath(model)!r}: neither a file or folder nor a shipped voice (shipped: {names})\n"
        f"hint: give the path of a {SUFFIX} file, of its unpacked folder, or a shipped name"
    )


def _read_embeddings(store: Store, manifest: Manifest, origin: str) -> NDArray[np.float32]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    name = manifest.singer_embedding_file
    data = store.read(name)
    _verify(data, manifest.singer_embedding_sha256, f"{origin}: {name}")
    try:
        embeddings = load(data).get("embedding")
    except SafetensorError as error:
        raise BundleError(f"{origin}: {name} is not a safetensors file: {error}") from error
    width = manifest.model.singer_channels
    if embeddings is None or embeddings.ndim != 2 or embeddings.shape[1] != width or embeddings.dtype != np.float32:
        found = "none" if embeddings is None else f"{embeddings.dtype} {embeddings.shape}"
        raise BundleError(f"{origin}: {name} must hold `embedding` (singers, {width}) float32, found {found}")
    beyond = [key for key, singer in manifest.singers.items() if singer.index >= len(embeddings)]
    if beyond or not np.isfinite(embeddings).all():
        whom = ", ".join(beyond) or "all"
        raise BundleError(f"{origin}: {name} has {len(embeddings)} rows and no usable one for {whom}")
    return embeddings


def _verify(data: bytes, sha256: str, what: str) -> None:
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise BundleError(
            f"{what} has SHA-256 {found}, the manifest says {sha256}: it was damaged or changed\n"
            "hint: fetch the bundle again"
        )


def _checked_name(name: str, origin: str) -> str:
    """`name` if it is a plain relative path below the bundle, on every system."""
    path = PurePosixPath(name)
    plain = name and not path.is_absolute() and "\\" not in name and ":" not in name and "\0" not in name
    if not plain or any(part in ("", ".", "..") for part in name.split("/")):
        raise BundleError(f"{origin}: {name!r} is not a path inside the bundle")
    return name


class _Folder:
    def __init__(self, root: Path, origin: str) -> None:
        self._root, self._origin = root.resolve(), origin

    def _path(self, name: str) -> Path:
        path = (self._root / _checked_name(name, self._origin)).resolve()
        if not path.is_relative_to(self._root):
            raise BundleError(f"{self._origin}: {name} leads out of the bundle, to {path}")
        if not path.is_file():
            raise BundleError(f"{self._origin}: {name} is missing{_not_a_bundle(name)}")
        return path

    def read(self, name: str) -> bytes:
        try:
            return self._path(name).read_bytes()
        except OSError as error:
            raise BundleError(f"{self._origin}: {name} cannot be read: {error}") from error

    def size(self, name: str) -> int:
        return self._path(name).stat().st_size


class _Zip:
    def __init__(self, path: Path, origin: str) -> None:
        self._path, self._origin = path, origin
        try:
            with zipfile.ZipFile(path) as archive:
                self._members = self._check(archive.infolist())
        except (zipfile.BadZipFile, OSError, NotImplementedError, UnicodeDecodeError) as error:
            raise BundleError(
                f"{origin} is not a voice bundle: {error}\nhint: a bundle is a {SUFFIX} file or its unpacked folder"
            ) from error

    def _check(self, infos: list[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
        members: dict[str, zipfile.ZipInfo] = {}
        for info in infos:
            name = info.filename
            _checked_name(name.removesuffix("/"), self._origin)
            # Sums of the stored sizes then bound what is read, so no archive can unfold into more than its own size.
            if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
                raise BundleError(f"{self._origin}: {name} is compressed; a bundle is an uncompressed zip")
            if info.flag_bits & 1 or name in members or stat.S_ISLNK(info.external_attr >> 16):
                raise BundleError(f"{self._origin}: {name} is encrypted, a link, or there twice")
            members[name] = info
        total = sum(info.file_size for info in members.values())
        if total > self._path.stat().st_size:
            raise BundleError(f"{self._origin}: its files claim {total} bytes, more than the archive has")
        return members

    def _info(self, name: str) -> zipfile.ZipInfo:
        _checked_name(name, self._origin)
        if name not in self._members:
            raise BundleError(f"{self._origin}: {name} is missing{_not_a_bundle(name)}")
        return self._members[name]

    def read(self, name: str) -> bytes:
        info = self._info(name)
        try:
            with zipfile.ZipFile(self._path) as archive:
                return archive.read(info)
        except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
            message = f"{self._origin}: {name} cannot be read: {error}\nhint: fetch the bundle again"
            raise BundleError(message) from error

    def size(self, name: str) -> int:
        return self._info(name).file_size


def _not_a_bundle(name: str) -> str:
    return "; this is not a voice bundle" if name == MANIFEST_FILE else ""
