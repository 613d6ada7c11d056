"""What of an output hears the input's end, asked of the graphs themselves."""

import numpy as np
import pytest

from comosvc.export.variants import input_maker
from comosvc.runtime.bundle import open_bundle
from comosvc.runtime.graph import GRAPHS
from comosvc.runtime.probes import steps_at_end
from comosvc.runtime.profiles import grid_of
from comosvc.runtime.providers import cpu
from comosvc.runtime.transfers import padded


@pytest.mark.parametrize("graph", ["content", "content_low", "pitch", "acoustic", "acoustic_n", "vocoder"])
@pytest.mark.parametrize("voice", ["demo", "tiny"])
def test_what_is_compared_does_not_hear_the_padding(bundle_path, voice, graph):
    """Content of the tiny voice is seen through a window."""
    bundle = open_bundle("demo" if voice == "demo" else bundle_path)
    manifest = bundle.manifest
    if graph not in manifest.graphs:
        pytest.skip(f"this voice has no {graph} graph")
    entry, grid = manifest.graphs[graph], grid_of(manifest, graph)
    frames = 60
    length = frames * grid.hop - grid.hop // 3 if grid.takes_audio else frames
    inputs = input_maker(manifest, bundle.embeddings).make(GRAPHS[graph], 1, length, seed=1)
    sizes, longer = grid.sizes(1, 2 * frames), {}
    for name, dtype, dims in entry.inputs:
        shape = tuple(sizes[dim] if isinstance(dim, str) else dim for dim in dims)
        longer[name] = padded(inputs[name], shape, np.dtype(dtype)).reshape(shape)
    run = cpu.open_graph(bundle, graph, entry, 1).run
    at_end = steps_at_end(manifest, graph)
    for alone, followed in zip(run(inputs), run(longer), strict=True):
        compared = alone.shape[1] - at_end
        apart = np.abs(alone[:, :compared] - followed[:, :compared])
        assert apart.max() < 1e-5 * np.abs(alone).max()
