"""Provider `cpu`: ONNX Runtime on the processor."""

from ..bundle import Bundle
from .onnx import Graph, onnx_runtime

PRECISIONS = ("fp32", "int8")


def probe() -> None:
    """Raise `ProviderError` unless ONNX Runtime is installed: it runs wherever it is."""
    onnx_runtime()


def open_graphs(bundle: Bundle, precision: str, threads: int | None) -> dict[str, Graph]:
    """Every graph of the bundle, ready to run."""
    entries = bundle.manifest.entries(precision)
    return {name: Graph(name, entry, bundle.entry_bytes(name, entry), threads) for name, entry in entries.items()}
