"""Bundles on disk: one uncompressed zip, written all or nothing, the same bytes for the same content."""

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from ..runtime.bundle import Bundle, open_bundle, shipped_voices
from ..runtime.manifest import MANIFEST_FILE, GraphEntry, Manifest, to_json
from ..runtime.storage import reason, remove_stale, replacing
from .errors import ExportError

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can say
_MODE = 0o644 << 16
Entries = dict[str, GraphEntry]


def write_zip(path: Path, files: Mapping[str, bytes]) -> None:
    """Write `files` by name into the zip `path`, the manifest first, the rest in order of names."""
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
                info.create_system = 3  # Unix, wherever it is written
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
