"""Inputs and outputs of each graph of a bundle, and a check that an ONNX file holds a plain graph.

The check reads the bytes of protobuf, without an engine or the onnx package.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod

from ..errors import BundleError


@dataclass(frozen=True)
class TensorSpec:
    """A named tensor: its element type and the letters of its dimensions (none: a scalar)."""

    name: str
    dtype: str
    dims: tuple[str, ...]


@dataclass(frozen=True)
class GraphSpec:
    """A graph's contract. `inputs` and `outputs` are in the order of the ONNX file."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


_CONDITION = ("content B S C", "content_index B T", "f0_hz B T", "loudness B T", "singer B D")
_CONTRACTS = {
    # Names and dimensions of inputs and of outputs.
    "content": (["audio B N"], ["content B S C"]),
    "content_low": (["audio B N"], ["content B S C"]),  # with a shorter look-ahead, for live use
    "pitch": (["audio B N"], ["f0_hz B P", "confidence B P"]),
    "acoustic": ([*_CONDITION, "noise B T M"], ["mel B T M"]),  # the first step, from noise
    # A further step; step_index points into a table of sigmas baked into the graph.
    "acoustic_n": ([*_CONDITION, "mel B T M", "noise B T M", "step_index"], ["mel_out B T M"]),
    "vocoder": (["mel B T M", "f0_hz B T", "source B L H", "noise B L"], ["audio B L"]),
}
_INTEGERS = ("content_index", "step_index")


def _tensors(texts: list[str]) -> tuple[TensorSpec, ...]:
    named = [(name, tuple(dims)) for name, *dims in map(str.split, texts)]
    return tuple(TensorSpec(name, "int32" if name in _INTEGERS else "float32", dims) for name, dims in named)


GRAPHS = {name: GraphSpec(name, _tensors(ins), _tensors(outs)) for name, (ins, outs) in _CONTRACTS.items()}
OPTIONAL_INPUTS = {"vocoder": ("f0_hz", "source", "noise")}
"""By graph: inputs of its contract that a design may leave out."""


DOMAINS = frozenset({"", "ai.onnx"})
"""Allowed domains of operators; both are names of ONNX itself."""
OPSETS, IR_VERSIONS = range(13, 29), range(7, 15)
"""From those that exporters have written for years to the newest of onnx 1.23; ours are 18 and 20, and 10."""
_ELEMENT_TYPES = frozenset({1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 16})
"""Allowed types of weights: numbers of a byte and more, and bool; no texts."""
_MOST_PARTS = 100_000
"""Fields of a file. ONNX Runtime takes 3 s for 400,000. The demo's graphs have up to 3,500, and 7,100 in int8."""
_MOST_NODES = 3_000
"""OpenVINO takes up to 2.4 ms for each, ONNX Runtime 0.1. The demo's graphs have up to 370, ContentVec about 1,000."""
_MOST_AT_LOAD = 600
"""Nodes without an input's values, which engines compute at load. The pitch graph, swift-f0's, has the most: 191."""
_AT_LOAD = frozenset({
    "Add", "And", "Cast", "Concat", "Constant", "ConstantOfShape", "Cos", "DequantizeLinear", "Div", "Equal",
    "Expand", "Gather", "GreaterOrEqual", "Identity", "LessOrEqual", "Max", "Min", "Mul", "Range", "Reshape",
    "ScatterElements", "Shape", "Sin", "Size", "Slice", "Squeeze", "Sub", "Unsqueeze", "Where",
})  # fmt: skip
"""Operators of those nodes. Their cost is linear in their output, whose size the engines' providers limit."""
_SIZES = ("Shape", "Size")
"""Operators whose output does not depend on values."""
_MOST_DIMS = 16
_LARGEST_SETTING = 1 << 16
"""Largest number in a list attribute: kernels, strides, dilations, axes. The largest known is 320."""
_OTHER_FORMATS = (b"ORTM", b"TFL3")
"""Marks at byte 4 by which engines recognise other formats: ONNX Runtime's own, TensorFlow Lite."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # how protobuf writes a field
_FIXED_SIZES = {_FIXED64: 8, _FIXED32: 4}

_FIELDS: dict[str, dict[int, str]] = {
    # Message -> number of a field -> the message that it holds, "text" for UTF-8, or "" for anything else.
    "model": {1: "", **dict.fromkeys((2, 3, 4, 6), "text"), 5: "", 7: "graph", 8: "opset", 14: "property"},
    "graph": {1: "node", 2: "text", 5: "tensor", 10: "text", 11: "value", 12: "value", 13: "value", 16: "property"},
    "node": {**dict.fromkeys((1, 2, 3, 4, 6, 7, 8), "text"), 5: "attribute", 9: "property"},
    "attribute": {**dict.fromkeys((2, 3, 4, 7, 8, 9, 20), ""), **dict.fromkeys((1, 13), "text"), 5: "tensor"},
    "tensor": {**dict.fromkeys((1, 2, 4, 5, 7, 9, 10, 11, 14), ""), 8: "text", 12: "text", 16: "property"},
    "value": {1: "text", 2: "type", 3: "text", 4: "property"},
    "type": {1: "tensor type", 6: "text"},
    "tensor type": {1: "", 2: "shape"},
    "shape": {1: "dimension"},
    "dimension": {1: "", 2: "text", 3: "text"},
    "opset": {1: "text", 2: ""},
    "property": {1: "text", 2: "text"},
}
_REFUSED = {
    ("model", 20): "instructions for training",
    ("model", 25): "functions of its own",
    ("graph", 15): "sparse weights",
    ("attribute", 6): "control flow: a graph inside a node",
    ("attribute", 10): "several tensors in an attribute",
    ("attribute", 11): "control flow: graphs inside a node",
    ("tensor", 3): "weights in segments",
    ("tensor", 6): "texts as weights",
    ("tensor", 13): "external data: weights outside of the file",
}
"""Fields of onnx.proto whose names help; any other that is not listed above is refused by its number."""


def check_graph_file(data: bytes, what: str) -> None:
    """Raise `BundleError`, which begins with `what`, unless `data` is an ONNX file of one plain graph."""
    try:
        if data[4:8] in _OTHER_FORMATS:
            raise _NotPlainError("it is of another format than ONNX")
        _Walk(memoryview(data)).model()
    except _NotPlainError as error:
        raise BundleError(
            f"{what} cannot be loaded: {error}\nhint: a voice holds plain ONNX graphs; take it from a source you trust"
        ) from None


class _NotPlainError(Exception):
    """The file holds more than a plain graph; the message names it."""


@dataclass
class _Node:
    """Operator, and names of inputs and outputs."""

    operator: str = ""
    inputs: list[bytes] = field(default_factory=list)
    outputs: list[bytes] = field(default_factory=list)


class _Walk:
    """One pass over a file. `_FIELDS` bounds the depth of nested messages."""

    def __init__(self, data: memoryview) -> None:
        self._data, self._parts = data, 0
        self._inputs = set[bytes]()
        self._given = {b""}  # names of inputs and weights; an input that is left out has no name
        self._nodes = list[_Node]()

    def model(self) -> None:
        """The whole file."""
        graphs, opsets = 0, 0  # protobuf merges repeated occurrences of a message
        for number, value, span in self._message("model", slice(0, len(self._data))):
            if number == 1 and value not in IR_VERSIONS:
                raise _NotPlainError(f"its format is version {value}; {_ends(IR_VERSIONS)} are read")
            if number == 7:
                graphs += 1
                self._graph(span)
            elif number == 8:
                opsets += 1
                self._opset(span)
        if not graphs or not opsets:
            raise _NotPlainError(f"it is no ONNX file: it has {graphs} graphs and {opsets} versions of operators")
        self._check_order()
        self._check_work_at_load()

    def _check_order(self) -> None:
        given = self._inputs | self._given
        for node in self._nodes:
            if not given.issuperset(node.inputs):
                raise _NotPlainError("it has a node with an input that no node before it gives")
            if not given.isdisjoint(filter(None, node.outputs)):
                raise _NotPlainError("it has a node that gives a tensor that is there already")
            given.update(node.outputs)

    def _check_work_at_load(self) -> None:
        values = self._inputs - self._given  # tensors that depend on the values of an input
        at_load = 0
        for node in self._nodes:
            if node.operator not in _SIZES and not values.isdisjoint(node.inputs):
                values.update(filter(None, node.outputs))
                continue
            at_load += 1
            if node.operator not in _AT_LOAD:
                raise _NotPlainError(f"it has {node.operator!r} of weights or sizes alone, to be computed at load")
            if at_load > _MOST_AT_LOAD:
                raise _NotPlainError(f"it has more than {_MOST_AT_LOAD} nodes of weights and sizes alone")

    def _opset(self, span: slice) -> None:
        version = None
        for number, value, inside in self._message("opset", span):
            if number == 1 and (domain := self._text(inside)) not in DOMAINS:
                raise _NotPlainError(f"it takes operators of {domain!r}, not of ONNX")
            if number == 2:
                version = value
        if version not in OPSETS:
            raise _NotPlainError(f"its operators are of version {version}; {_ends(OPSETS)} are read")

    def _graph(self, span: slice) -> None:
        for number, _, inside in self._message("graph", span):
            if number == 1:
                self._node(inside)
            elif number == 5:
                self._given.add(self._tensor(inside))
            elif number in (11, 12, 13):
                self._value(inside, is_input=number == 11)

    def _value(self, span: slice, *, is_input: bool) -> None:
        for number, _, inside in self._message("value", span):
            if number == 1 and is_input:
                self._inputs.add(bytes(self._data[inside]))
            if number in (2, 4):
                self._all_of(_FIELDS["value"][number], inside)

    def _node(self, span: slice) -> None:
        node = _Node()
        self._nodes.append(node)
        if len(self._nodes) > _MOST_NODES:
            raise _NotPlainError(f"it has more than {_MOST_NODES} nodes")
        for number, _, inside in self._message("node", span):
            if number in (1, 2):
                (node.inputs if number == 1 else node.outputs).append(bytes(self._data[inside]))
            elif number == 4:
                node.operator = self._text(inside)
            if number == 7 and (domain := self._text(inside)) not in DOMAINS:
                raise _NotPlainError(f"it has an operator of {domain!r}, not of ONNX")
            if number == 5:
                for part, value, tensor in self._message("attribute", inside):
                    if part == 5:
                        self._tensor(tensor)
                    elif part == 8:
                        self._setting(value, tensor)

    def _setting(self, value: int | None, span: slice) -> None:
        numbers = self._packed(span) if value is None else [value]
        if len(numbers) > _MOST_DIMS:
            raise _NotPlainError(f"it has a list of settings with more than {_MOST_DIMS} numbers")
        for number in numbers:
            signed = number - (1 << 64) if number >> 63 else number
            if abs(signed) > _LARGEST_SETTING:
                raise _NotPlainError(f"it has a list of settings with {signed}; {_LARGEST_SETTING} is the most")

    def _tensor(self, span: slice) -> bytes:
        """Its name."""
        dims, kind, name = list[int](), None, b""
        for number, value, inside in self._message("tensor", span):
            if number == 1:
                dims += self._packed(inside) if value is None else [value]
            elif number == 2:
                kind = value
            elif number == 8:
                name = bytes(self._data[inside])
            elif number == 14 and value != 0:
                raise _NotPlainError(_REFUSED["tensor", 13])
        n_bytes = span.stop - span.start
        if kind not in _ELEMENT_TYPES:
            raise _NotPlainError(f"it has weights of type {kind}, which is no number of a byte or more")
        if len(dims) > _MOST_DIMS or prod(dims) > n_bytes:  # a negative one reads as 2^63 and more
            raise _NotPlainError(f"it has weights of the shape {dims[:_MOST_DIMS]} in {n_bytes} bytes")
        return name

    def _all_of(self, message: str, span: slice) -> None:
        for number, _, inside in self._message(message, span):
            if (part := _FIELDS[message][number]) not in ("", "text"):
                self._all_of(part, inside)

    def _message(self, message: str, span: slice) -> Iterator[tuple[int, int | None, slice]]:
        """Fields of a message: number of the field, its value if that is an integer, and the place of its bytes."""
        fields, (start, stop) = _FIELDS[message], (span.start, span.stop)
        while start < stop:
            self._parts += 1
            if self._parts > _MOST_PARTS:
                raise _NotPlainError(f"it has more than {_MOST_PARTS} parts")
            tag, start = self._varint(start, stop)
            number, form = tag >> 3, tag & 7
            if number not in fields:
                refused = _REFUSED.get((message, number), f"field {number} of a {message}, which plain graphs lack")
                raise _NotPlainError(f"it has {refused}")
            if fields[number] and form != _BYTES:
                raise _NotPlainError(f"it is no ONNX file: field {number} of a {message} is no message")
            value, inside = None, slice(0, 0)
            if form == _VARINT:
                value, start = self._varint(start, stop)
            else:
                inside = self._span(form, start, stop)
                start = inside.stop
                if fields[number] == "text":
                    self._text(inside)
            yield number, value, inside

    def _span(self, form: int, start: int, stop: int) -> slice:
        if form == _BYTES:
            size, start = self._varint(start, stop)
        elif form in _FIXED_SIZES:
            size = _FIXED_SIZES[form]
        else:
            raise _NotPlainError("it is no ONNX file")
        if size > stop - start:
            raise _NotPlainError("it is no ONNX file, or it was cut short")
        return slice(start, start + size)

    def _varint(self, start: int, stop: int) -> tuple[int, int]:
        """A protobuf varint (groups of 7 bits, lowest first) and its end."""
        if start < stop and (value := self._data[start]) < 128:
            return value, start + 1
        value = 0
        for index, byte in enumerate(self._data[start : min(stop, start + 10)]):
            value |= (byte & 127) << 7 * index
            if byte < 128:
                return value, start + index + 1
        raise _NotPlainError("it is no ONNX file, or it was cut short")

    def _packed(self, span: slice) -> list[int]:
        values, start = list[int](), span.start
        while start < span.stop and len(values) <= _MOST_DIMS:
            value, start = self._varint(start, span.stop)
            values.append(value)
        return values

    def _text(self, span: slice) -> str:
        try:
            return bytes(self._data[span]).decode()
        except UnicodeDecodeError as error:
            raise _NotPlainError(f"it has a name that is not UTF-8: {error.object!r:.60}") from None


def _ends(versions: range) -> str:
    return f"{versions.start} to {versions.stop - 1}"
