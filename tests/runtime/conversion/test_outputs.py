"""Graphs that give something else than their contract says, in ONNX Runtime and in OpenVINO: one clear error."""

import hashlib

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from tiny_bundle import edited, write_zip

from comosvc.runtime import BundleError, Converter
from comosvc.runtime.voice.bundle import open_bundle

TWICE = 2**40


def scaled(files, graph, times):
    """The tiny voice with the first output of a graph multiplied."""
    model = onnx.load_from_string(files[f"{graph}.onnx"])
    output = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["inner" if name == output else name for name in node.output]
    model.graph.initializer.append(numpy_helper.from_array(np.float32(times).reshape(()), "times"))
    model.graph.node.append(helper.make_node("Mul", ["inner", "times"], [output]))
    return with_graph(files, graph, model)


def with_graph(files, graph, model):
    """The tiny voice with another graph, whose hash the manifest has."""
    data = model.SerializeToString()
    digest = hashlib.sha256(data).hexdigest()
    return {**edited(files, lambda m: m["graphs"][graph].update(sha256=digest)), f"{graph}.onnx": data}


def sliced(files, graph, axis, end):
    """The tiny voice's graph with its first output cut to `end` along `axis`, and doubled if `end` is `TWICE`.

    Where it is cut follows from the input's length, so that no engine knows before it runs.
    """
    model = onnx.load_from_string(files[f"{graph}.onnx"])
    output = model.graph.output[0]
    inner = f"{output.name}_inner"
    for node in model.graph.node:
        node.output[:] = [inner if name == output.name else name for name in node.output]
    numbers = {"start": [0], "most": [end], "axis": [axis]}
    model.graph.initializer.extend(numpy_helper.from_array(np.array(v), name) for name, v in numbers.items())
    model.graph.node.append(helper.make_node("Shape", [model.graph.input[0].name], ["length"], start=1, end=2))
    model.graph.node.append(helper.make_node("Min", ["length", "most"], ["end"]))
    model.graph.node.append(helper.make_node("Slice", [inner, "start", "end", "axis"], ["cut"]))
    parts = ["cut", "cut"] if end == TWICE else ["cut"]
    model.graph.node.append(helper.make_node("Concat", parts, [output.name], axis=axis))
    for dim in output.type.tensor_type.shape.dim:
        dim.Clear()
    return with_graph(files, graph, model)


CASES = [
    ("content", 1, 5, "content"), ("content", 1, TWICE, "content"), ("content", 2, 5, "content"),
    ("content", 0, 0, "content"), ("pitch", 1, 3, "f0_hz"), ("pitch", 1, TWICE, "f0_hz"),
    ("acoustic", 1, 10, "mel"), ("acoustic", 1, 0, "mel"), ("acoustic", 1, TWICE, "mel"),
    ("acoustic", 2, 7, "mel"), ("acoustic", 2, 1, "mel"), ("acoustic_n", 1, 10, "mel_out"),
    ("vocoder", 1, 100, "audio"), ("vocoder", 1, TWICE, "audio"),
]  # fmt: skip


@pytest.mark.parametrize(("graph", "axis", "end", "output"), CASES)
def test_another_length_or_width_is_refused(files, song, tmp_path, graph, axis, end, output):
    path = write_zip(tmp_path / "x.comosvc", sliced(files, graph, axis, end))
    for latency in ("default", "low"):
        with (
            Converter(path, provider="cpu", threads=1) as converter,
            pytest.raises(BundleError, match=rf"the {graph} graph gave {output} float32 .* it must be float32 \("),
        ):
            converter.convert(song[:12_000], 24_000, steps=2, latency=latency)


@pytest.mark.parametrize("graph", ["content", "pitch", "acoustic", "vocoder"])
def test_numbers_that_are_none_are_refused(files, song, tmp_path, graph):
    path = write_zip(tmp_path / "x.comosvc", scaled(files, graph, np.nan))
    with (
        Converter(path, provider="cpu", threads=1) as converter,
        pytest.raises(BundleError, match=r"[0-9]+ of [0-9]+ numbers that are NaN or infinite"),
    ):
        converter.convert(song[:12_000], 24_000)


def test_openvino_is_looked_at_too(files, song, tmp_path):
    pytest.importorskip("openvino")
    path = write_zip(tmp_path / "x.comosvc", sliced(files, "acoustic", 1, 10))
    with (
        Converter(path, provider="openvino", precision="fp32", threads=1, cache_dir=tmp_path) as converter,
        pytest.raises(BundleError, match=r"the acoustic graph gave mel float32 \(1, 10, 8\)"),
    ):
        converter.convert(song[:12_000], 24_000)


def test_the_graphs_of_the_demo_are_as_long_as_they_are_counted():
    """Also for samples that are no whole number of hops."""
    from comosvc.runtime.providers.sessions import open_graph

    bundle = open_bundle("demo")
    for name, hop in (("content", 160), ("content_low", 160), ("pitch", 256)):
        graph = open_graph(bundle, name, bundle.manifest.graphs[name], 1)
        for length in (hop, hop + 1, 2 * hop - 1, 2 * hop, 10 * hop + 7):
            assert graph.run({"audio": np.zeros((2, length), np.float32)})[0].shape[:2] == (2, length // hop)
