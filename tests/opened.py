"""Parts of an open converter: its graphs, the shapes of their calls, and conversions in pieces of any length."""

from dataclasses import replace

import numpy as np

from comosvc.runtime.audio.resampling import blocks
from comosvc.runtime.conversion.calls import Batches
from comosvc.runtime.conversion.clips import convert_blocks
from comosvc.runtime.conversion.stages import Clip, run


def graphs_of(converter):
    """The graphs by name; the mapping may be changed."""
    return converter._graphs


def wrap(converter, name, around):
    """Let `around(inputs, run)` stand for the graph's `run`."""
    graph = graphs_of(converter)[name]
    run_graph = graph.run
    graph.run = lambda inputs: around(inputs, run_graph)


def recorded(converter):
    """A list to which every call of a graph adds its name and the shapes of its inputs."""
    calls = []
    for name in graphs_of(converter):

        def record(inputs, run_graph, name=name):
            calls.append((name, {key: value.shape for key, value in inputs.items()}))
            return run_graph(inputs)

        wrap(converter, name, record)
    return calls


def converted(converter, audio, rate, piece_s, block, steps=1, singer="alto", key=3.0):
    """Audio, mel and F0 with pieces of `piece_s` and the audio coming in blocks of `block` samples."""
    request = replace(converter._request(singer, key, 5, steps, "default"), piece_s=piece_s)
    out = []
    stages = convert_blocks(converter.manifest, request, lambda: blocks(audio, block), rate, 1, out.append, keep=True)
    outcome = run(Clip(stages), Batches(graphs_of(converter)))
    return np.concatenate(out), outcome.mel, outcome.f0_hz


def assert_same(found, wanted, tolerance=1e-5):
    """Audio, mel and F0 are equal but for `tolerance` of the largest value: float32 sums in another order."""
    for name, a, b in zip(("audio", "mel", "f0_hz"), found, wanted, strict=True):
        assert a.shape == b.shape, name
        assert np.abs(a - b).max() <= tolerance * np.abs(b).max(), name
