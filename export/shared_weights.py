"""The denoiser that `acoustic` and `acoustic_n` have in common, stored once.

A serialised ONNX model followed by another one is the merger of both: protocol buffers append repeated fields. So a
graph can be written with its common tensors behind the rest, as the same bytes in both graphs. `store_once` keeps such
bytes as a file of their own; the runtime puts them behind each graph's file.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, TensorProto

from ..runtime.manifest import MANIFEST_FILE, GraphEntry, Manifest, to_json
from .archive import graph_file, sha256

_PAIR = ("acoustic", "acoustic_n")
_LEAST_BYTES = 256
"""Of a common tensor: the names and headers of smaller ones take as much as they do."""


def with_common_tail(graphs: Mapping[str, bytes]) -> dict[str, bytes]:
    """`graphs` by name, where `acoustic` and `acoustic_n` end with the tensors that both have, in the same bytes."""
    if any(name not in graphs for name in _PAIR):
        return dict(graphs)
    models = [onnx.load_from_string(graphs[name]) for name in _PAIR]
    first, second = ({_digest(tensor): tensor for tensor in model.graph.initializer} for model in models)
    common = sorted(digest for digest in first.keys() & second.keys() if len(first[digest].raw_data) >= _LEAST_BYTES)
    tail = GraphProto()
    for digest in common:
        tail.initializer.add().CopyFrom(first[digest])
        tail.initializer[-1].name = _common_name(digest)
    end = ModelProto(graph=tail).SerializeToString(deterministic=True) if common else b""
    for model in models:
        _leave_out(model, set(common))
    heads = (model.SerializeToString(deterministic=True) for model in models)
    return {**graphs, **{name: head + end for name, head in zip(_PAIR, heads, strict=True)}}


def store_once(
    manifest: Manifest, files: Mapping[str, bytes], least_bytes: int = 0
) -> tuple[Manifest, dict[str, bytes]]:
    """The bundle with the common end of `acoustic` and `acoustic_n` in a file of its own, in every precision.

    Graphs are left alone that lie outside the bundle, share a file already, or end alike in `least_bytes` or fewer.
    """
    inside = dict(files)

    def stored(entries: dict[str, GraphEntry]) -> dict[str, GraphEntry]:
        pair = {name: entries[name] for name in _PAIR if name in entries}
        names = [entry.file for entry in pair.values() if entry.file is not None and entry.weights is None]
        if len(names) < len(_PAIR):
            return entries
        length = _common_end(*(inside[name] for name in names))
        if length <= least_bytes:
            return entries
        file = graph_file("acoustic_weights", pair["acoustic"].precision)
        inside[file] = inside[names[0]][-length:]
        for name in names:
            inside[name] = inside[name][:-length]
        return {**entries, **{name: replace(entry, weights=file) for name, entry in pair.items()}}

    variants = {precision: stored(entries) for precision, entries in manifest.variants.items()}
    manifest = replace(manifest, graphs=stored(manifest.graphs), variants=variants)
    return manifest, {**inside, MANIFEST_FILE: to_json(manifest).encode()}


def _common_end(first: bytes, second: bytes) -> int:
    """Bytes that both end with."""
    length = min(len(first), len(second))
    ends = (np.frombuffer(data, np.uint8)[len(data) - length :] for data in (first, second))
    differing = np.flatnonzero(np.not_equal(*ends))
    return length - 1 - int(differing[-1]) if len(differing) else length


def _leave_out(model: ModelProto, common: set[str]) -> None:
    """Take the tensors with these digests out of `model`, and call them by their common names."""
    graph = model.graph
    names = {tensor.name: digest for tensor in graph.initializer if (digest := _digest(tensor)) in common}
    kept = [tensor for tensor in graph.initializer if tensor.name not in names]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    for node in graph.node:
        node.input[:] = [_common_name(names[name]) if name in names else name for name in node.input]


def _digest(tensor: TensorProto) -> str:
    """SHA-256 of a tensor's type, shape and values."""
    return sha256(f"{tensor.data_type} {list(tensor.dims)} ".encode() + tensor.raw_data)


def _common_name(digest: str) -> str:
    return f"common_{digest[:16]}"
