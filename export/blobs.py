"""Large graphs that several voices share, kept once: `$COMOSVC_HOME/blobs/<sha256>`."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from ..runtime.bundle import comosvc_home
from ..runtime.manifest import MANIFEST_FILE, Manifest, to_json
from ..runtime.storage import remove_stale, sha256, write_whole
from .archive import Entries, with_entries
from .errors import ExportError


def blob_path(digest: str) -> Path:
    """Where the runtime looks for the graph of this hash."""
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
