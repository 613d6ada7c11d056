"""Precision int8: the student's convolutions as matrix products of 8-bit numbers, for ONNX Runtime on the CPU.

Weights are rounded beforehand, one scale for each output channel; what they meet is rounded in each call, one scale for
the whole call (ONNX `DynamicQuantizeLinear`), so a result depends on the piece and on the batch that it is computed in,
within the precision's error. At the authors' size the student takes 0.4 of its time in float32 with AVX512-VNNI, and
the vocoder, made in the same way, all of it; ContentVec takes 0.7 but loses 2.5e-2. Those two stay in float32, as does
everything in OpenVINO, which is slower with such graphs.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

GRAPHS = ("acoustic", "acoustic_n")
LEAST_CHANNELS = 64
"""Narrower ones are not worth two changes of layout."""
LARGEST = 63
"""Of a weight. Without VNNI two products are summed in 16 bits, which with 127 may overflow; unsigned weights may not
either, but take twice as long.
"""
_TO_THE_END = np.iinfo(np.int64).max


def int8_graph(name: str, model: ModelProto) -> ModelProto | None:
    """A copy of the float32 graph with its convolutions in 8 bits; None where the graph had better stay as it is."""
    if name not in GRAPHS:
        return None
    made = ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[NodeProto] = []

    def constant(tensor: str, value: NDArray) -> str:
        graph.initializer.append(numpy_helper.from_array(value, tensor))
        return tensor

    for node in graph.node:
        weight = weights.get(node.input[1]) if node.op_type == "Conv" else None
        kernel = None if weight is None else numpy_helper.to_array(weight)
        if kernel is None or not _fits(node, kernel):
            nodes.append(node)
        else:
            nodes += _in_8_bits(node, kernel, constant)
    if len(nodes) == len(graph.node):
        return None
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return made


def _fits(node: NodeProto, kernel: NDArray) -> bool:
    """One-dimensional, as long as its input, all channels to all."""
    if kernel.ndim != 3 or min(kernel.shape[:2]) < LEAST_CHANNELS:
        return False
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    reach = (kernel.shape[2] - 1) * next(iter(attributes.get("dilations", [1])))
    pads, strides = (list(attributes.get(name, usual)) for name, usual in (("pads", [0, 0]), ("strides", [1])))
    return attributes.get("group", 1) == 1 and strides == [1] and sum(pads) == reach


def _in_8_bits(node: NodeProto, kernel: NDArray, constant: Callable[[str, NDArray], str]) -> list[NodeProto]:
    """y (B, O, T) of x (B, I, T): the taps of x beside each other (B, T, K I), times the kernel (K I, O)."""
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    dilation, pads = next(iter(attributes.get("dilations", [1]))), list(attributes.get("pads", [0, 0]))
    n_taps, result = kernel.shape[2], node.output[0]
    matrix = np.ascontiguousarray(kernel.transpose(2, 1, 0)).reshape(-1, kernel.shape[0])
    scales = np.maximum(np.abs(matrix).max(axis=0), np.finfo(np.float32).tiny) / LARGEST
    eight_bits = np.rint(matrix / scales).astype(np.int8)
    nodes: list[NodeProto] = []

    def add(op: str, inputs: list[str], tag: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op, inputs, [f"{result}_{tag}"], f"{node.name}_{tag}", **attributes))
        return f"{result}_{tag}"

    x = add("Transpose", [node.input[0]], "rows", perm=[0, 2, 1])
    quantized = [f"{result}_{tag}" for tag in ("x8", "x8_scale", "x8_zero")]
    nodes.append(helper.make_node("DynamicQuantizeLinear", [x], quantized, f"{node.name}_x8"))
    taps = quantized[0]
    if n_taps > 1:
        around = constant(f"{result}_pads", np.array([0, pads[0], 0, 0, pads[1], 0], np.int64))
        padded = add("Pad", [quantized[0], around, quantized[2]], "padded")  # float32's 0 is `x8_zero`
        axis = constant(f"{result}_axis", np.array([1], np.int64))
        shifted = []
        for tap in range(n_taps):
            end = -(n_taps - 1 - tap) * dilation or _TO_THE_END
            bounds = [
                constant(f"{result}_from{tap}", np.array([tap * dilation], np.int64)),
                constant(f"{result}_to{tap}", np.array([end], np.int64)),
            ]
            shifted.append(add("Slice", [padded, *bounds, axis], f"tap{tap}"))
        taps = add("Concat", shifted, "taps", axis=2)
    weight = constant(f"{result}_w8", eight_bits)
    sums = add("MatMulInteger", [taps, weight, quantized[2]], "sums32")
    sums = add("Cast", [sums], "sums", to=TensorProto.FLOAT)
    scale = add("Mul", [quantized[1], constant(f"{result}_w8_scale", scales.astype(np.float32))], "scale")
    y = add("Mul", [sums, scale], "product")
    if len(node.input) > 2:
        y = add("Add", [y, node.input[2]], "biased")
    nodes.append(helper.make_node("Transpose", [y], [result], f"{node.name}_channels", perm=[0, 2, 1]))
    return nodes
