"""What a graph of a bundle may not have is refused by its bytes, before an engine sees it."""

import contextlib
import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from comosvc.runtime import BundleError
from comosvc.runtime.providers.sessions import open_session
from comosvc.runtime.voice.graphs import check_graph_file

NODE = helper.make_node("Identity", ["x"], ["y"])
X = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
BODY = helper.make_graph([NODE], "body", [], [])


def model(nodes=(NODE,), weights=(), opsets=(("", 20),), **fields):
    """A model of `nodes` and `weights`; `fields` are those of the model, or functions that change it."""
    made = helper.make_model(
        helper.make_graph(list(nodes), "g", [X], [], list(weights)),
        opset_imports=[helper.make_opsetid(*opset) for opset in opsets],
        ir_version=fields.pop("ir_version", 10),
    )
    for edit in fields.values():
        edit(made)
    return made.SerializeToString()


def weight(**fields):
    """A tensor of four numbers, with other fields."""
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), "w")
    for name, value in fields.items():
        if name == "dims":
            tensor.dims[:] = value
        elif name == "external":
            tensor.external_data.add(key="location", value=value)
        else:
            setattr(tensor, name, value)
    return tensor


def with_attribute(value):
    return helper.make_node("Custom", ["x"], ["y"], thing=value)


def nested(op, depth):
    """`op` with a body in a body."""
    body = BODY
    for _ in range(depth):
        body = helper.make_graph([helper.make_node(op, ["x"], ["y"], body=body)], "body", [], [])
    return body.node[0]


FUNCTION = helper.make_function("loc", "f", ["x"], ["y"], [NODE], [helper.make_opsetid("", 20)])
HOSTILE = {
    "external data": (model(weights=[weight(data_location=TensorProto.EXTERNAL, external="/etc/passwd")]), "external"),
    "a location alone": (model(weights=[weight(external="*/_ORT_MEM_ADDR_/*")]), "external data"),
    "external by its flag": (model(weights=[weight(data_location=TensorProto.EXTERNAL)]), "external data"),
    "external in an attribute": (model([with_attribute(weight(external="x"))]), "external data"),
    "tensors in an attribute": (model([with_attribute([weight(external="x")])]), "several tensors"),
    "a loop": (model([nested("Loop", 1)]), "control flow"),
    "a scan": (model([nested("Scan", 3)]), "control flow"),
    "a sequence map": (model([nested("SequenceMap", 1)]), "control flow"),
    "branches": (model([helper.make_node("If", ["x"], ["y"], then_branch=BODY, else_branch=BODY)]), "control flow"),
    "branches in a list": (model([with_attribute([BODY, BODY])]), "control flow"),
    "functions": (model(edit=lambda m: m.functions.append(FUNCTION)), "functions of its own"),
    "an operator of others": (model([helper.make_node("Evil", ["x"], ["y"], domain="com.evil")]), "'com.evil'"),
    "of Microsoft": (model([helper.make_node("Attention", ["x"], ["y"], domain="com.microsoft")]), "'com.microsoft'"),
    "a domain of others": (model(opsets=[("", 20), ("com.evil", 1)]), "'com.evil'"),
    "an endless opset": (model(opsets=[("", 2**62)]), "4611686018427387904"),
    "a negative opset": (model(opsets=[("", -1)]), "version"),
    "an old opset": (model(opsets=[("", 1)]), "13 to 28"),
    "no opset": (model(opsets=()), "0 versions of operators"),
    "another format's version": (model(ir_version=10**6), "1000000"),
    "training": (model(edit=lambda m: m.training_info.add()), "training"),
    "sparse weights": (model(edit=lambda m: m.graph.sparse_initializer.add()), "sparse"),
    "texts as weights": (model(weights=[helper.make_tensor("w", TensorProto.STRING, [1], [b"x"])]), "texts"),
    "weights of no type": (model(weights=[weight(data_type=99)]), "type 99"),
    "weights beyond the file": (model(weights=[weight(dims=[2**40])]), "1099511627776"),
    "weights of a negative size": (model(weights=[weight(dims=[-4])]), "weights of the shape"),
    "a product beyond the file": (model(weights=[weight(dims=[2**31, 2**31, 2**31])]), "weights of the shape"),
    "a circle": (
        model([helper.make_node("Add", ["x", "z"], ["y"]), helper.make_node("Relu", ["y"], ["z"])]),
        "no node",
    ),
    "a circle through itself": (model([helper.make_node("Add", ["x", "y"], ["y"])]), "no node before it"),
    "a circle past the name of a constant": (
        model(
            [helper.make_node("Constant", [], ["c"], value=weight(name="y")), helper.make_node("Relu", ["y"], ["y"])]
        ),
        "no node before it",
    ),
    "a dilation beyond all": (
        model([helper.make_node("Conv", ["x", "w"], ["y"], dilations=[2**31 - 1])]),
        "2147483647",
    ),
    "a name given twice": (model([helper.make_node("Relu", ["w"], ["w"])], [weight()]), "is there already"),
    "a chain without end": (model([helper.make_node("Relu", ["x"], [f"y{i}"]) for i in range(3_001)]), "3000 nodes"),
    "products of weights": (model([helper.make_node("MatMul", ["w", "w"], ["y"])], [weight()]), "'MatMul' of weights"),
    "products of sizes": (
        model(
            [helper.make_node("Shape", ["x"], ["s"]), helper.make_node("Einsum", ["s", "s"], ["y"], equation="i,j->")]
        ),
        "'Einsum' of weights or sizes alone",
    ),
    "noise of its own": (model([helper.make_node("RandomNormal", [], ["y"], shape=[9])]), "'RandomNormal' of weights"),
    "sums of weights without end": (
        model([helper.make_node("Add", ["w", "w"], [f"y{i}"]) for i in range(601)], [weight()]),
        "more than 600 nodes of weights and sizes alone",
    ),
    "more weights than can be loaded soon": (model(weights=[weight(name=f"w{i}") for i in range(20_000)]), "parts"),
    "an operator that is not UTF-8": (
        model([helper.make_node("Operator", ["x"], ["y"])]).replace(b"Operator", b"Op\xfferato"),
        r"not UTF-8: b'Op.xfferato'",
    ),
    "an input that is not UTF-8": (
        model(edit=lambda m: m.graph.input.add(name="name")).replace(b"name", b"n\xffme"),
        "not UTF-8",
    ),
    "a dimension that is not UTF-8": (
        model(edit=lambda m: m.graph.output.add(name="y").type.tensor_type.shape.dim.add(dim_param="size")).replace(
            b"size", b"s\xffze"
        ),
        "not UTF-8",
    ),
    "sequences": (
        model(edit=lambda m: m.graph.input.add(name="x").type.sequence_type.elem_type.sequence_type.SetInParent()),
        "field 4 of a type",
    ),
    "nothing": (b"", "no ONNX file"),
    "cut short": (model()[:-3], "no ONNX file"),
    "a length beyond the file": (b"\x08\x0a\x3a\xff\xff\xff\xff\x0f", "no ONNX file"),
    "an endless number": (b"\x08" + b"\xff" * 12, "no ONNX file"),
    "ONNX Runtime's own format": (b"\x12\x10\x00\x00ORTM" + bytes(12) + model(), "another format"),
    "a fixed number for a graph": (b"\x3d\x00\x00\x00\x00", "no message"),
    "a flag that wraps to external": (
        model(weights=[weight()]).replace(b"\x42\x01w", b"\x70\x81\x80\x80\x80\x10"),
        "no ONNX file|external data",
    ),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_engines_would_do_more_with_than_compute_is_refused(what):
    data, words = HOSTILE[what]
    start = time.process_time()
    with pytest.raises(BundleError, match=words) as caught:
        check_graph_file(data, "here: the vocoder graph")
    assert str(caught.value).startswith("here: the vocoder graph cannot be loaded: ")
    assert time.process_time() - start < 1.0


def test_more_parts_than_can_be_read_soon_are_refused():
    start = time.process_time()
    with pytest.raises(BundleError, match="more than 100000 parts"):
        check_graph_file(model([helper.make_node("Identity", ["x"] * 1_000_000, ["y"])]), "here")
    assert time.process_time() - start < 3.0


def test_a_plain_graph_in_one_part_or_two_is_accepted():
    """Protobuf joins messages that stand one after the other: graphs may share the end of their files."""
    data = model(weights=[weight()], opsets=[("ai.onnx", 20)])
    check_graph_file(data, "here")
    tail = onnx.ModelProto(graph=onnx.GraphProto(initializer=[weight(name="v")])).SerializeToString()
    check_graph_file(data + tail, "here")
    external = onnx.ModelProto(graph=onnx.GraphProto(initializer=[weight(external="x")])).SerializeToString()
    with pytest.raises(BundleError, match="external data"):
        check_graph_file(data + external, "here")


def test_any_changed_byte_is_accepted_or_refused_and_nothing_else():
    data, rng = model([NODE, helper.make_node("Add", ["x", "w"], ["z"])], [weight()]), np.random.default_rng(0)
    for _ in range(500):
        changed = bytearray(data)
        for place in rng.integers(0, len(data), rng.integers(1, 4)):
            changed[place] = rng.integers(0, 256)
        with contextlib.suppress(BundleError):
            check_graph_file(bytes(changed[: rng.integers(1, len(data) + 1)]), "here")


def test_constants_that_grow_are_not_computed_at_load():
    """300 sines of 64 MB took ONNX Runtime a minute and 19 GB."""
    column, row = np.ones((4_000, 1), np.float32), np.ones(4_000, np.float32)
    sizes = [numpy_helper.from_array(column, "w"), numpy_helper.from_array(row, "v")]
    grown = [helper.make_node("Add", ["w", "v"], ["s0"])]
    sines = [helper.make_node("Sin", [f"s{i}"], [f"s{i + 1}"]) for i in range(300)]
    nodes = [*grown, *sines, helper.make_node("Add", ["x", "s300"], ["y"])]
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    data = model(nodes, sizes, edit=lambda m: m.graph.output.append(y))
    check_graph_file(data, "here")
    start = time.process_time()
    open_session(data, "here", 1)
    assert time.process_time() - start < 2.0


def test_errors_of_onnx_runtime_are_not_printed(capsys):
    data = model([helper.make_node("Operator", ["x"], ["y"])]).replace(b"Operator", b"Op\xfferato")
    with pytest.raises(BundleError, match="here cannot be loaded"):
        open_session(data, "here", 1)
    assert capsys.readouterr().out == ""
