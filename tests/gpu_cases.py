"""What graphs are run with on a GPU, all within what engines are built for: short, odd, and the longest that they hold.

Lengths are frames of the graph's own grid, as in `comosvc.runtime.conversion.shapes`.
"""

from itertools import product

from comosvc.runtime.conversion.shapes import grid_of, length_of
from comosvc.runtime.voice.bundle import open_bundle
from comosvc.runtime.voice.graphs import GRAPHS

NAMES = ("content", "content_low", "pitch", "acoustic", "acoustic_n", "vocoder")
BATCHES = (1, 3, 8)
_HEARD = 8
"""Frames of the shortest whose future is all there: beyond them is padding on the GPU, the array's end on the CPU."""


def future_of(manifest, graph):
    return getattr(manifest.context, graph.removesuffix("_n")).future


def lengths(manifest, graph):
    most = length_of(manifest, graph, "clip").most
    return future_of(manifest, graph) + _HEARD, most // 3 | 1, most


def cases():
    """(graph, frames, batch) for the demo voice."""
    manifest = open_bundle("demo").manifest
    return [case for graph in NAMES for case in product([graph], lengths(manifest, graph), BATCHES)]


def inputs_of(maker, manifest, graph, frames, batch):
    """Of a synthetic voice, so long."""
    grid = grid_of(manifest, graph)
    length = grid.sizes(batch, frames)["N"] if grid.takes_audio else frames
    return maker.make(GRAPHS[graph], batch, length, seed=1)
