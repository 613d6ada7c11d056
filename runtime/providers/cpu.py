"""Provider `cpu`: ONNX Runtime on the processor."""

from ..bundle import Bundle
from ..manifest import GraphEntry
from ..profiles import grid_of
from .onnx import Graph, onnx_runtime

PRECISIONS = ("fp32", "int8")


def probe() -> None:
    """Raise `ProviderError` unless ONNX Runtime is installed: it runs wherever it is."""
    onnx_runtime()


def open_graphs(bundle: Bundle, precision: str, threads: int | None) -> dict[str, Graph]:
    """Every graph of the bundle, ready to run."""
    entries = bundle.manifest.entries(precision)
    return {name: open_graph(bundle, name, entry, threads) for name, entry in entries.items()}


def open_graph(bundle: Bundle, name: str, entry: GraphEntry, threads: int | None, *, at_once: bool = False) -> Graph:
    """One of them; `at_once`: for runs in several threads at the same time."""
    return Graph(grid_of(bundle.manifest, name), entry, bundle.entry_bytes(name, entry), threads, at_once=at_once)
