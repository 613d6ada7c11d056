"""ONNX Runtime sessions: which version, and what of a graph they print."""

import hashlib
import time

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny_bundle import edited, write_zip

from comosvc.runtime import BundleError, Converter, ProviderError
from comosvc.runtime.cli.doctor import environment
from comosvc.runtime.providers import choose_provider
from comosvc.runtime.providers.sessions import onnx_runtime, open_session


@pytest.mark.parametrize("version", ["1.20.1", "1.27.0", "0.9"])
def test_an_onnx_runtime_that_is_not_safe_with_any_graph_is_refused(monkeypatch, version):
    monkeypatch.setattr(onnxruntime, "__version__", version)
    with pytest.raises(ProviderError, match=rf"onnxruntime {version} is too old: 1.28 .*\nhint: pip install --upgrade"):
        onnx_runtime()
    with pytest.raises(ProviderError, match="is too old"):
        choose_provider("cpu")
    row = next(finding for finding in environment() if finding.what == "onnxruntime")
    assert row.works is False
    assert "too old" in row.detail


@pytest.mark.parametrize("version", ["1.28.0", "1.32.0.dev20261001", "2.0.0"])
def test_a_newer_one_is_taken(monkeypatch, version):
    monkeypatch.setattr(onnxruntime, "__version__", version)
    assert onnx_runtime() is onnxruntime


def test_names_of_a_graph_that_fails_are_not_printed_as_they_are(files, song, tmp_path, capfd):
    """ONNX Runtime's own log has the names of nodes, with whatever is in them."""
    model = onnx.load_from_string(files["vocoder.onnx"])
    for node in model.graph.node:
        node.output[:] = ["inner" if name == "audio" else name for name in node.output]
    model.graph.initializer.append(numpy_helper.from_array(np.array([7]), "seven"))
    model.graph.node.append(helper.make_node("Shape", ["inner"], ["shape"]))
    model.graph.node.append(helper.make_node("Mul", ["shape", "seven"], ["larger"]))
    model.graph.node.append(helper.make_node("Reshape", ["inner", "larger"], ["audio"], name="\x1b]0;owned\x07"))
    data = model.SerializeToString()
    digest = hashlib.sha256(data).hexdigest()
    changed = edited(files, lambda m: m["graphs"]["vocoder"].update(sha256=digest)) | {"vocoder.onnx": data}
    with (
        Converter(write_zip(tmp_path / "x.comosvc", changed), provider="cpu", threads=1) as converter,
        pytest.raises(BundleError, match="the vocoder graph failed") as caught,
    ):
        converter.convert(song[:12_000], 24_000)
    assert "\x1b" not in str(caught.value)
    assert "\x1b" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("shape", [[2**14, 2**13], [2**20, 2**20]])
def test_a_giant_constant_is_not_computed_to_open_a_graph(shape):
    nodes = [helper.make_node("Expand", ["zero", "shape"], ["giant"]), helper.make_node("ReduceSum", ["giant"], ["y"])]
    weights = [numpy_helper.from_array(np.float32(0.0), "zero"), numpy_helper.from_array(np.array(shape), "shape")]
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1])
    graph = helper.make_graph(nodes, "g", [], [y], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    start = time.process_time()
    open_session(model.SerializeToString(), "the graph", 1)
    assert time.process_time() - start < 0.5
