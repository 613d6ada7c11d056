"""From foreign checkpoints to a bundle on disk, and what that took."""

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ...runtime.bundle import open_bundle
from ...runtime.manifest import MANIFEST_FILE, Manifest, to_json
from ...training.progress import Report
from ..archive import write_zip
from ..assemble import build_files
from ..blobs import share
from ..memory import peak_memory_bytes
from ..precision import add_precisions, files_reader
from ..shared_weights import store_once
from ..statements import Statements
from .voice import ImportRequest, load_imported_voice

SHARED = ("content",)
"""Graphs that many voices have in common."""


@dataclass(frozen=True)
class ImportReport:
    """A written bundle: its manifest, sizes of its graphs in bytes, time, and the process's peak memory if known."""

    manifest: Manifest
    graph_bytes: Mapping[str, int]
    seconds: float
    peak_memory_bytes: int | None


def import_bundle(
    request: ImportRequest,
    statements: Statements,
    name: str,
    path: Path,
    full: bool = False,
    precisions: Collection[str] = (),
    progress: Report = lambda what, share: None,
) -> ImportReport:
    """Import, trace, compare with torch, and write `path`. The content graph goes to the blobs unless `full`.

    `precisions`: those that the voice has besides fp32. `progress` is called with what is being done and the share that
    is done.
    Time and peak memory are also in the manifest's provenance. Raises `ForeignFileError`, `ExportError`, `ParityError`;
    nothing is written then.
    """
    start = time.perf_counter()
    progress("reading the checkpoints", None)
    voice = load_imported_voice(request, statements)
    manifest, files = build_files(voice, name, progress)
    progress(f"precisions {', '.join(precisions)}" if precisions else "writing", None)
    manifest, files = add_precisions(manifest, files, precisions, files_reader(files), voice.embeddings)
    seconds, peak = time.perf_counter() - start, peak_memory_bytes()
    cost = {"seconds": round(seconds, 1), "peak_memory_bytes": peak}
    manifest = replace(manifest, provenance={**manifest.provenance, "export": cost})
    files[MANIFEST_FILE] = to_json(manifest).encode()
    manifest, files = store_once(manifest, files)
    if not full:
        manifest, files = share(manifest, files, SHARED)
    write_zip(path, files)
    bundle = open_bundle(path)
    sizes = {graph: len(bundle.graph_bytes(graph)) for graph in manifest.graphs}
    return ImportReport(manifest, sizes, seconds, peak)
