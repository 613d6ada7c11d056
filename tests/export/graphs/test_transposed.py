"""Transposed convolutions as plain ones: against ONNX Runtime's own, on shapes that vocoders have and others."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from comosvc.export.graphs.parity import onnx_runner
from comosvc.export.graphs.transposed import unroll_transposed


def model_of(kernel, bias=None, **attributes):
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, None, None]) for name in ("x", "y")]
    weights = [
        numpy_helper.from_array(value, name) for name, value in (("w", kernel), ("b", bias)) if value is not None
    ]
    node = helper.make_node("ConvTranspose", ["x", *(weight.name for weight in weights)], ["y"], "up", **attributes)
    graph = helper.make_graph([node], "one", tensors[:1], tensors[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize("length", [1, 2, 9])
@pytest.mark.parametrize(("taps", "stride", "pads"), [(16, 8, [4, 4]), (16, 4, [6, 6]), (4, 2, [1, 1]), (5, 3, [2, 0])])
def test_it_computes_what_the_transposed_one_does(taps, stride, pads, length):
    rng = np.random.default_rng(0)
    kernel, bias = rng.standard_normal((6, 4, taps)), rng.standard_normal(4)
    model = model_of(kernel.astype(np.float32), bias.astype(np.float32), strides=[stride], pads=pads)
    x = rng.standard_normal((2, 6, length)).astype(np.float32)
    wanted = onnx_runner(model.SerializeToString())({"x": x})["y"]
    unroll_transposed(model)
    onnx.checker.check_model(model, full_check=True)
    assert "ConvTranspose" not in {node.op_type for node in model.graph.node}
    assert {tensor.name for tensor in model.graph.initializer}.isdisjoint({"w", "b"})
    np.testing.assert_allclose(onnx_runner(model.SerializeToString())({"x": x})["y"], wanted, atol=1e-5)


@pytest.mark.parametrize("attributes", [{"group": 2}, {"dilations": [2]}, {"output_padding": [1]}])
def test_what_it_cannot_express_stays(attributes):
    model = model_of(np.zeros((4, 2, 4), np.float32), strides=[2], **attributes)
    before = model.SerializeToString(deterministic=True)
    unroll_transposed(model)
    assert model.SerializeToString(deterministic=True) == before
