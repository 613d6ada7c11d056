"""Provider `cpu`: ONNX Runtime on the processor."""

from ..conversion.shapes import grid_of
from ..voice.bundle import Bundle
from ..voice.manifest import GraphEntry
from .sessions import OnnxGraph, onnx_runtime

PRECISIONS = ("fp32", "int8")


def probe() -> None:
    """Raise `ProviderError` unless ONNX Runtime is installed: it runs wherever it is."""
    onnx_runtime()


def open_graphs(bundle: Bundle, precision: str, threads: int | None) -> dict[str, OnnxGraph]:
    """Every graph of the bundle, ready to run."""
    entries = bundle.manifest.entries(precision)
    return {name: open_graph(bundle, name, entry, threads) for name, entry in entries.items()}


def open_graph(
    bundle: Bundle, name: str, entry: GraphEntry, threads: int | None, *, at_once: bool = False
) -> OnnxGraph:
    """One of them; `at_once`: for runs in several threads at the same time."""
    return OnnxGraph(grid_of(bundle.manifest, name), entry, bundle.entry_bytes(name, entry), threads, at_once=at_once)
