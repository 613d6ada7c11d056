"""Weights that the graphs `acoustic` and `acoustic_n` have in common, stored once in a bundle."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import onnx
from onnx import GraphProto, ModelProto, TensorProto

from ...runtime.storage import sha256
from ...runtime.voice.manifest import MANIFEST_FILE, Manifest, to_json
from ..archive import Entries, graph_file, with_entries

_PAIR = ("acoustic", "acoustic_n")
_LEAST_BYTES = 256
"""Smallest common tensor that is moved; name and header of smaller tensors take as many bytes as their values."""


def with_common_tail(graphs: Mapping[str, bytes]) -> dict[str, bytes]:
    """`graphs` by name, with the common tensors of `acoustic` and `acoustic_n` as equal bytes at their ends."""
    if any(name not in graphs for name in _PAIR):
        return dict(graphs)
    models = [onnx.load_from_string(graphs[name]) for name in _PAIR]
    names = _common_names(*models)
    end, _ = (_tail(_take_out(model, names)) for model in models)
    heads = [model.SerializeToString(deterministic=True) for model in models]
    return {**graphs, **{name: head + end for name, head in zip(_PAIR, heads, strict=True)}}


def store_once(
    manifest: Manifest, files: Mapping[str, bytes], least_bytes: int = 0
) -> tuple[Manifest, dict[str, bytes]]:
    """The bundle with the common end of `acoustic` and `acoustic_n` in a file of its own, in every precision.

    Graphs are left alone that lie outside the bundle, share a file already, or have `least_bytes` or fewer in common.
    """
    inside = dict(files)

    def stored(entries: Entries) -> Entries:
        pair = {name: entries[name] for name in _PAIR if name in entries}
        names = [entry.file for entry in pair.values() if entry.file is not None and entry.weights is None]
        if len(names) < len(_PAIR):
            return entries
        models = [onnx.load_from_string(inside[name]) for name in names]
        end = _tail(_take_out(models[0], _common_names(*models)))
        if len(end) <= least_bytes or not all(inside[name].endswith(end) for name in names):
            return entries
        file = graph_file("acoustic_weights", pair["acoustic"].precision)
        inside[file] = end
        for name in names:
            inside[name] = inside[name].removesuffix(end)
        return {**entries, **{name: replace(entry, weights=file) for name, entry in pair.items()}}

    manifest = with_entries(manifest, stored)
    return manifest, {**inside, MANIFEST_FILE: to_json(manifest).encode()}


def _tail(tensors: Sequence[TensorProto]) -> bytes:
    """A serialised model of these tensors alone; no bytes without tensors."""
    model = ModelProto(graph=GraphProto(initializer=tensors))
    return model.SerializeToString(deterministic=True) if tensors else b""


def _common_names(first: ModelProto, second: ModelProto) -> dict[str, str]:
    """Digest to name of each large common tensor: its own name where both models use it, else a new one."""
    ours, theirs = ({_digest(tensor): tensor for tensor in model.graph.initializer} for model in (first, second))
    common = [digest for digest in ours.keys() & theirs.keys() if len(ours[digest].raw_data) >= _LEAST_BYTES]
    same = {digest: ours[digest].name == theirs[digest].name for digest in common}
    return {digest: ours[digest].name if same[digest] else f"common_{digest[:16]}" for digest in common}


def _take_out(model: ModelProto, names: Mapping[str, str]) -> list[TensorProto]:
    """Remove the tensors with the digests of `names` from `model`; return one of each digest, renamed."""
    graph, renamed, kept, taken = model.graph, {}, [], {}
    for tensor in list(graph.initializer):
        if (digest := _digest(tensor)) not in names:
            kept.append(tensor)
            continue
        renamed[tensor.name] = tensor.name = names[digest]
        taken[digest] = tensor
    del graph.initializer[:]
    graph.initializer.extend(kept)
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
    return [taken[digest] for digest in sorted(taken)]


def _digest(tensor: TensorProto) -> str:
    """SHA-256 of a tensor's type, shape and values."""
    return sha256(f"{tensor.data_type} {list(tensor.dims)} ".encode() + tensor.raw_data)
