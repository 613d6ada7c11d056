"""Writes bundles: one uncompressed zip, all or nothing; graphs that voices share lie in the cache."""

import sys
import zipfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path

from ..runtime.storage import reason, remove_stale, replacing, sha256, write_whole
from ..runtime.voice.bundle import Bundle, comosvc_home, open_bundle, shipped_voices
from ..runtime.voice.manifest import MANIFEST_FILE, GraphEntry, Manifest, to_json
from .errors import ExportError


def peak_memory_bytes() -> int | None:
    """The largest resident size of this process so far; None where the system does not say (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can say
_MODE = 0o644 << 16
Entries = dict[str, GraphEntry]


def write_zip(path: Path, files: Mapping[str, bytes]) -> None:
    """Write `files` by name into the zip `path`, the manifest first, the rest sorted by name. Raises `ExportError`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(path.parent)
        # The 64-bit form, for 2 GiB and more, is not read again (`runtime.bundle`).
        with (
            replacing(path) as partial,
            zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED, allowZip64=False) as archive,
        ):
            for name in sorted(files, key=lambda name: (name != MANIFEST_FILE, name)):
                info = zipfile.ZipInfo(name, _EPOCH)
                info.external_attr = _MODE
                info.create_system = 3  # Unix on every system, for equal bytes
                archive.writestr(info, files[name])
    except (OSError, ValueError, zipfile.LargeZipFile) as error:
        raise ExportError(f"{path} cannot be written: {reason(error)}") from error


def pack(source: Path, path: Path, full: bool) -> Manifest:
    """Pack a bundle, usually an unpacked one, or a shipped voice by name, into the zip `path`, every hash checked.

    `full` puts graphs from the cache inside. A manifest of an older version gets its digest.
    """
    bundle = open_bundle(shipped_voices().get(str(source), source))
    bundle.verify()
    manifest, files = _filled(bundle) if full else (bundle.manifest, bundle.all_files())
    if full or manifest.digest is None:
        files[MANIFEST_FILE] = to_json(manifest).encode()
    write_zip(path, files)
    return manifest


def graph_file(name: str, precision: str) -> str:
    """Name of a graph's file inside a bundle."""
    return f"{name}.onnx" if precision == "fp32" else f"{name}.{precision}.onnx"


def _filled(bundle: Bundle) -> tuple[Manifest, dict[str, bytes]]:
    """Manifest and files of the bundle with its graphs of the cache inside, in every precision."""
    inside = bundle.all_files()

    def put(entries: Entries) -> Entries:
        made = dict(entries)
        for name, entry in entries.items():
            if entry.file is None:
                file = graph_file(name, entry.precision)
                inside[file] = bundle.entry_bytes(name, entry)
                made[name] = replace(entry, file=file)
        return made

    return with_entries(bundle.manifest, put), inside


def with_entries(manifest: Manifest, change: Callable[[Entries], Entries]) -> Manifest:
    """`manifest` with its graph entries of every precision replaced by `change(entries)`."""
    variants = {precision: change(entries) for precision, entries in manifest.variants.items()}
    return replace(manifest, graphs=change(manifest.graphs), variants=variants)


def blob_path(digest: str) -> Path:
    """Path of the graph of this hash in the cache."""
    return comosvc_home() / "blobs" / digest


def store_blob(data: bytes) -> Path:
    """Put a graph there, whole or not at all; one that is there and sound stays. Raises `ExportError`."""
    path = blob_path(sha256(data))
    try:
        if path.is_file() and path.stat().st_size == len(data) and sha256(path.read_bytes()) == path.name:
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(path.parent)
        write_whole(path, data)
    except OSError as error:
        raise ExportError(
            f"{path} cannot be written: {error}\nhint: set COMOSVC_HOME to a folder with room for "
            f"{len(data) / 1e6:.0f} MB, or keep the graph inside the bundle (--full)"
        ) from error
    return path


def share(manifest: Manifest, files: Mapping[str, bytes], names: Collection[str]) -> tuple[Manifest, dict[str, bytes]]:
    """The bundle with the graphs `names` in the blobs instead of inside it, in every precision."""
    inside = dict(files)

    def moved(entries: Entries) -> Entries:
        left = dict(entries)
        for name in entries.keys() & set(names):
            file = entries[name].file
            if file is not None:
                store_blob(inside.pop(file))
                left[name] = replace(entries[name], file=None)
        return left

    shared = with_entries(manifest, moved)
    return shared, {**inside, MANIFEST_FILE: to_json(shared).encode()}
