"""Turns an ONNX graph to float16: heavy nodes compute in it, delicate ones stay in float32.

`onnxruntime.transformers.float16` was tried on the graphs of a voice and not taken. Its casts stand behind the nodes
that read them, which onnx.checker refuses; values between two neighbours of an island go through float16, so that the
island keeps nothing; a constant that both sides read is rounded for both; numbers beyond 65504 are clipped in silence;
nodes without names (the pitch graph's) cannot be kept out; and importing it puts its folder on `sys.path`.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import chain

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from ...runtime.voice.graphs import GRAPHS

FLOAT, FLOAT16 = TensorProto.FLOAT, TensorProto.FLOAT16
HEAVY = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm"})
"""Nodes that take most time. A node between two of them that is no island goes with them; all others stay float32."""


@dataclass(frozen=True)
class Island:
    """Nodes that stay in float32: those of `ops`, and those that read a constant named like one of `constants`."""

    reason: str
    ops: tuple[str, ...] = ()
    constants: tuple[str, ...] = ()
    graphs: tuple[str, ...] = tuple(GRAPHS)


ISLANDS = (
    Island(
        "logarithms, exponentials, powers and roots: mel and F0 span more decades than float16 has digits",
        ops=("Log", "Exp", "Pow", "Sqrt", "Reciprocal"),
    ),
    Island("phases and Fourier features: an error in the angle is one in the result", ops=("Sin", "Cos")),
    Island("sums along time grow without bound", ops=("CumSum", "ReduceSum", "ReduceMean", "ReduceL2")),
    Island(
        "normalisation: the variance squares what it is given",
        ops=("LayerNormalization", "InstanceNormalization", "GroupNormalization"),
    ),
    Island(
        "Fourier transforms, their windows and the mel filters: spectra span 100 dB, float16 has 66",
        constants=("dft", "filters", "pulse_dft", "spectra.*"),
    ),
    Island("every MatMul of swift-f0 is such a transform or filter", ops=("MatMul",), graphs=("pitch",)),
)


def to_float16(model: ModelProto, graph: str, more: Collection[str] = ()) -> ModelProto:
    """`model` with heavy nodes in float16, casts where the types meet, and float32 inputs and outputs.

    `graph` is its name among `GRAPHS`. `more`: nodes that stay in float32 besides `ISLANDS`, each by the name of its
    first output.
    """
    rewriter = _Rewriter(model, _half_nodes(model, graph, more))
    for node in model.graph.node:
        rewriter.add(node)
    made = rewriter.finish()
    onnx.checker.check_model(made, full_check=True)
    return made


def island_of(node: NodeProto, graph: str, more: Iterable[Island] = ()) -> Island | None:
    """The entry of `ISLANDS` or of `more` that keeps `node` in float32."""
    for island in chain(ISLANDS, more):
        read = any(fnmatchcase(name, pattern) for name in node.input for pattern in island.constants)
        if graph in island.graphs and (read or node.op_type in island.ops):
            return island
    return None


def element_types(model: ModelProto) -> dict[str, int]:
    """Element type of every value of a graph, constants too."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = chain(graph.input, graph.output, graph.value_info)
    kinds = {value.name: value.type.tensor_type.elem_type for value in values}
    return kinds | {tensor.name: tensor.data_type for tensor in graph.initializer}


def _half_nodes(model: ModelProto, graph: str, more: Collection[str]) -> set[str]:
    """First outputs of the nodes that compute in float16."""
    kinds = element_types(model)
    computing = [node for node in model.graph.node if any(kinds.get(name) == FLOAT for name in node.output)]
    free = [node for node in computing if node.output[0] not in more and island_of(node, graph) is None]
    heavy = {node.output[0] for node in free if node.op_type in HEAVY}
    behind: set[str] = set()  # values that a heavy node reaches through no island
    for node in free:
        if node.output[0] in heavy or behind.intersection(node.input):
            behind.update(node.output)
    ahead: set[str] = set()  # values that reach one
    for node in reversed(free):
        if node.output[0] in heavy or ahead.intersection(node.output):
            ahead.update(node.input)
    between = {n.output[0] for n in free if behind.intersection(n.input) and ahead.intersection(n.output)}
    return heavy | between


class _Rewriter:
    """The new graph, node by node in the order of the old one."""

    def __init__(self, model: ModelProto, half: set[str]) -> None:
        self._model = model
        self._kinds = {name: kind for name, kind in element_types(model).items() if kind == FLOAT}
        self._half = half
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._made: dict[str, TensorProto] = {}
        self._nodes: list[NodeProto] = []
        self._cast: set[str] = set()

    def add(self, node: NodeProto) -> None:
        new = NodeProto()
        new.CopyFrom(node)
        floats = [name for name in node.output if name in self._kinds]
        if floats:
            kind = FLOAT16 if node.output[0] in self._half else FLOAT
        else:  # a comparison, a shape: of the type that its input has
            computed = [name for name in node.input if name in self._kinds and name not in self._constants]
            kind = self._kinds[computed[0]] if computed else FLOAT
        new.input[:] = [self._as(name, kind) for name in node.input]
        if node.op_type == "Cast" and floats:
            new.attribute[0].i = kind
        self._kinds.update(dict.fromkeys(floats, kind))
        self._nodes.append(new)

    def _as(self, name: str, kind: int) -> str:
        if self._kinds.get(name, kind) == kind:
            return name
        wanted = f"{name}.{'fp16' if kind == FLOAT16 else 'fp32'}"
        if name in self._constants:
            value = numpy_helper.to_array(self._constants[name]).astype(np.float16)
            self._made[wanted] = numpy_helper.from_array(value, wanted)
        elif wanted not in self._cast:
            self._cast.add(wanted)
            self._nodes.append(helper.make_node("Cast", [name], [wanted], f"cast_{wanted}", to=kind))
        return wanted

    def finish(self) -> ModelProto:
        made = ModelProto()
        made.CopyFrom(without_body(self._model))
        for output in made.graph.output:
            if self._kinds.get(output.name) == FLOAT16:
                _rename(self._nodes, output.name, f"{output.name}.half")
                cast = helper.make_node("Cast", [f"{output.name}.half"], [output.name], f"cast_{output.name}", to=FLOAT)
                self._nodes.append(cast)
        made.graph.node.extend(self._nodes)
        used = {name for node in self._nodes for name in node.input}
        made.graph.initializer.extend(t for name, t in (self._constants | self._made).items() if name in used)
        return made


def without_body(model: ModelProto) -> ModelProto:
    """Everything of a model but nodes and weights."""
    graph = helper.make_graph([], model.graph.name, model.graph.input, model.graph.output)
    bare = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    bare.metadata_props.extend(model.metadata_props)
    return bare


def _rename(nodes: Iterable[NodeProto], old: str, new: str) -> None:
    for node in nodes:
        for names in (node.input, node.output):
            names[:] = [new if name == old else name for name in names]
