"""Give a bundle graphs in another precision, each one measured against float32 first."""

import json
import logging
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ...runtime.storage import decode, sha256
from ...runtime.voice.bundle import PARITY_FILE, Bundle, open_bundle, read_parity, shipped_voices
from ...runtime.voice.manifest import MANIFEST_FILE, GraphEntry, Manifest, to_json
from ..archive import graph_file, share, write_zip
from ..errors import ExportError, as_bundle_error
from ..graphs.common_weights import store_once, with_common_tail
from ..graphs.inputs import InputMaker
from ..graphs.parity import Runner, onnx_runner
from ..graphs.trace import graph_entry, versions
from .fp16 import FP16
from .int8 import INT8
from .variants import OpenFp32, Precision, StaysFloat32Error, VariantRow, check_chain, check_variant, input_maker

logger = logging.getLogger(__name__)
PRECISIONS: dict[str, Precision] = {"fp16": FP16, "int8": INT8}
"""Precisions that can be added to a bundle; it always holds fp32."""

Files = dict[str, bytes]


def find_precisions(names: Collection[str]) -> list[Precision]:
    """`PRECISIONS` by their names; fp32 is there anyway. Raises `ExportError` for unknown ones."""
    wanted = [name for text in names for name in text.split(",") if name != "fp32"]
    if "bf16" in wanted:
        raise ExportError(
            "bf16 needs no graphs of its own: provider openvino computes those of fp32 in it\n"
            f"hint: leave it out; what can be added: {', '.join(PRECISIONS)}"
        )
    if unknown := [name for name in wanted if name not in PRECISIONS]:
        raise ExportError(f"unknown precision {unknown[0]!r}\nhint: fp32 is always there; {', '.join(PRECISIONS)}")
    return [PRECISIONS[name] for name in dict.fromkeys(wanted)]


def add_to_bundle(source: Path, path: Path, names: Collection[str]) -> Manifest:
    """Write the bundle `source`, a file, its folder or a shipped voice's name, with other precisions too, to `path`.

    Graphs whose float32 file lies in the cache go there as well. Raises `BundleError` or `ExportError`.
    """
    bundle = open_bundle(shipped_voices().get(str(source), source))
    bundle.verify()
    files = bundle.all_files()
    if PARITY_FILE in files:
        read_parity(bundle)
    with as_bundle_error(f"{bundle.origin}: one of its graphs"):
        manifest, files = add_precisions(bundle.manifest, files, names, bundle.graph_bytes, bundle.embeddings)
    shared = [name for name, entry in manifest.graphs.items() if entry.file is None]
    manifest, files = share(manifest, files, shared)
    if any(entry.weights for entry in manifest.graphs.values()):
        manifest, files = store_once(manifest, files)
    write_zip(path, files)
    return manifest


def recorded(bundle: Bundle) -> list[VariantRow]:
    """The figures of every precision that was added to a bundle. Raises `BundleError`."""
    rows = [row for record in read_parity(bundle).variants.values() for row in record.rows]
    with as_bundle_error(f"{bundle.origin}: {PARITY_FILE}"):
        return [decode(VariantRow, row, PARITY_FILE) for row in rows]


def files_reader(files: Files) -> Callable[[str], bytes]:
    """Reads a float32 graph of a bundle that has all of them inside."""
    return lambda name: files[graph_file(name, "fp32")]


def add_precisions(
    manifest: Manifest,
    files: Files,
    names: Collection[str],
    graph_bytes: Callable[[str], bytes],
    embeddings: NDArray[np.float32],
    judged: bool = True,
) -> tuple[Manifest, Files]:
    """The bundle's manifest and files with graphs in the precisions `names`; `graph_bytes` reads a float32 graph.

    Not `judged`: without a comparison with fp32, which is meaningless for random weights.
    """
    for precision in find_precisions(names):
        manifest, files = _add(manifest, files, precision, graph_bytes, embeddings, judged)
    return manifest, files


def _add(
    manifest: Manifest,
    files: Files,
    precision: Precision,
    graph_bytes: Callable[[str], bytes],
    embeddings: NDArray[np.float32],
    judged: bool,
) -> tuple[Manifest, Files]:
    maker = input_maker(manifest, embeddings)
    made: Files = {}
    facts: dict[str, Any] = {}
    kept: dict[str, str] = {}
    rows: list[VariantRow] = []

    def open_fp32(name: str) -> Runner:
        return onnx_runner(graph_bytes(name))

    for name in manifest.graphs:
        data = graph_bytes(name)
        try:
            variant = precision.make(name, onnx.load_from_string(data), maker, open_fp32)
            found = _check_graph(name, precision, variant.data, data, maker) if judged else []
            _within_budget([row.figure for row in found if not row.ok])
        except StaysFloat32Error as error:
            kept[name] = str(error)
            logger.warning("%s: %s stays in fp32: %s", precision.name, name, error)
            continue
        made[name], facts[name] = variant.data, dict(variant.facts)
        rows += found
    try:
        chain_rows = _check_chain(precision, made, open_fp32, maker) if made and judged else []
        _within_budget([str(row) for row in chain_rows if not row.ok])
        rows += chain_rows
    except StaysFloat32Error as error:  # the cause may be any of them
        logger.warning("%s: all graphs stay in fp32: %s", precision.name, error)
        kept |= dict.fromkeys(made, str(error))
        made, facts, rows = {}, {}, []
    made = with_common_tail(made)
    record = {
        "graphs": {name: sha256(data) for name, data in made.items()},
        "versions": versions(),
        "kept_fp32": kept,
        "facts": facts,
        "rows": [row.as_dict() for row in rows],
    }
    return _with_variant(manifest, files, precision.name, made, record)


def _within_budget(misses: list[str]) -> None:
    if misses:
        raise StaysFloat32Error(f"{misses[0]}" + (f", and {len(misses) - 1} more" if misses[1:] else ""))


def _check_graph(name: str, precision: Precision, made: bytes, fp32: bytes, maker: InputMaker) -> list[VariantRow]:
    logger.info("comparing %s in %s with fp32", name, precision.name)
    return check_variant(name, precision, precision.runner(made), onnx_runner(fp32), maker)


def _check_chain(precision: Precision, made: Files, open_fp32: OpenFp32, maker: InputMaker) -> list[VariantRow]:
    logger.info("comparing the whole chain in %s with fp32", precision.name)

    def open_variant(name: str) -> Runner:
        return precision.runner(made[name]) if name in made else open_fp32(name)

    return check_chain(precision, open_variant, open_fp32, maker)


def _with_variant(
    manifest: Manifest, files: Files, precision: str, made: Files, record: dict[str, Any]
) -> tuple[Manifest, Files]:
    """The bundle with the graphs `made`, in the place of those that it had in this precision."""
    old = {name for entry in manifest.variants.get(precision, {}).values() for name in entry.files}
    files = {name: data for name, data in files.items() if name not in old}
    entries: dict[str, GraphEntry] = {}
    for name, data in made.items():
        entries[name] = graph_entry(name, data, precision)
        files[graph_file(name, precision)] = data
    parity = json.loads(files.get(PARITY_FILE, b"{}"))
    parity.setdefault("variants", {})[precision] = record
    files[PARITY_FILE] = json.dumps(parity, indent=1).encode()
    facts = manifest.provenance
    facts = {**facts, "files": {**facts.get("files", {}), PARITY_FILE: sha256(files[PARITY_FILE])}}
    others = {name: variant for name, variant in manifest.variants.items() if name != precision}
    variants = {**others, precision: entries} if entries else others
    manifest = replace(manifest, variants=variants, provenance=facts)
    return manifest, {**files, MANIFEST_FILE: to_json(manifest).encode()}
