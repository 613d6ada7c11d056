"""Compute what a graph would compute anew, and alike, in every call."""

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, helper, numpy_helper

from ..runtime.providers.onnx import open_session


def fold_constants(model: ModelProto) -> None:
    """Replace every node that no input reaches by its value, in place; values come from ONNX Runtime.

    At fixed sigma this is the denoiser's whole step path with its weights; torch's exporter folds it only up to Mish.
    """
    graph = model.graph
    constant, dynamic = _split(graph)
    made = {name for node in constant for name in node.output if name}
    wanted = made & ({name for node in dynamic for name in node.input} | {output.name for output in graph.output})
    values = _evaluate(model, constant, sorted(wanted))
    del graph.node[:]
    graph.node.extend(dynamic)
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in values.items())
    used = {name for node in dynamic for name in node.input} | {output.name for output in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _split(graph: GraphProto) -> tuple[list[NodeProto], list[NodeProto]]:
    """Nodes that no input reaches, and the rest. A node with a body may read anything, so it belongs to the rest."""
    reached = {value.name for value in graph.input}
    constant, dynamic = [], []
    for node in graph.node:
        has_body = any(attribute.type == AttributeProto.GRAPH for attribute in node.attribute)
        if has_body or reached.intersection(node.input):
            reached.update(node.output)
            dynamic.append(node)
        else:
            constant.append(node)
    return constant, dynamic


def _evaluate(model: ModelProto, nodes: list[NodeProto], names: list[str]) -> dict:
    if not names:
        return {}
    used = {name for node in nodes for name in node.input}
    weights = [tensor for tensor in model.graph.initializer if tensor.name in used]
    outputs = [onnx.ValueInfoProto(name=name) for name in names]
    part = helper.make_model(
        helper.make_graph(nodes, "constants", [], outputs, weights),
        opset_imports=model.opset_import,
        ir_version=model.ir_version,
        functions=model.functions,
    )
    session = open_session(part.SerializeToString(), "the part of constants", None)
    return dict(zip(names, session.run(names, {}), strict=True))
