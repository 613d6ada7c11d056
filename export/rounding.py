"""What a float16 graph computes, on a processor that has no float16.

ONNX Runtime's CPU provider does not show it: where it lacks a float16 kernel, and on x86 it lacks nearly all, it
computes a whole chain in float32 between one cast at its start and one at its end, at every optimisation level. A
product of 10^7, infinite in float16, comes out right. So the graph is rewritten: each float16 result is computed in
float32, rounded to float16 and widened again, by casts of our own, which are kept.

This is how a GPU computes with float16 tensors and float32 accumulators, up to the order of sums. What it cannot show:
a kernel that accumulates in float16, flushes subnormal numbers, or fuses neighbours and rounds less often.
"""

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from .half import FLOAT, FLOAT16, element_types, without_body


def rounded(model: ModelProto) -> ModelProto:
    """The float16 graph `model` in float32 arithmetic with every float16 result rounded."""
    kinds = element_types(model)
    made = without_body(model)
    for tensor in model.graph.initializer:
        if tensor.data_type == FLOAT16:
            tensor = numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)
        made.graph.initializer.append(tensor)
    for node in model.graph.node:
        made.graph.node.extend(_rounding(node, [name for name in node.output if kinds.get(name) == FLOAT16]))
    return made


def _rounding(node: NodeProto, halves: list[str]) -> list[NodeProto]:
    exact = NodeProto()
    exact.CopyFrom(node)
    if node.op_type == "Cast" and node.attribute[0].i == FLOAT16:
        exact.attribute[0].i = FLOAT
    exact.output[:] = [f"{name}.exact" if name in halves else name for name in node.output]
    nodes = [exact]
    for name in halves:
        nodes.append(helper.make_node("Cast", [f"{name}.exact"], [f"{name}.rounded"], to=FLOAT16))
        nodes.append(helper.make_node("Cast", [f"{name}.rounded"], [name], to=FLOAT))
    return nodes
