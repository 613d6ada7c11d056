"""The student and the vocoder in 8 bits, on the shipped voice's graphs."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from comosvc.export.graphs.parity import onnx_runner
from comosvc.export.precision.half import HEAVY
from comosvc.export.precision.int8 import INT8, make_int8
from comosvc.export.precision.precision import recorded
from comosvc.export.precision.variants import StaysFloat32Error, figures, input_maker
from comosvc.runtime.providers.self_test import read_probes
from comosvc.runtime.voice.bundle import kept_fp32, open_bundle

IN_8_BITS = ("acoustic", "acoustic_n", "vocoder")


@pytest.fixture(scope="module")
def bundle():
    return open_bundle("demo")


@pytest.fixture(scope="module")
def both(int8_demo):
    return open_bundle(int8_demo)


def in_8_bits(both, name):
    return onnx.load_from_string(both.entry_bytes(name, both.manifest.entries("int8")[name]))


@pytest.mark.parametrize("name", IN_8_BITS)
def test_graphs_in_8_bits_are_near_what_torch_gave(both, name):
    made = in_8_bits(both, name)
    onnx.checker.check_model(made, full_check=True)
    assert made.ByteSize() < len(both.graph_bytes(name))
    run, seen = onnx_runner(made.SerializeToString()), 0
    for probe in read_probes(both):
        if probe.graph == name:
            got = run(probe.inputs)
            rows = list(figures(name, INT8, got, probe.outputs, probe.size, both.manifest.audio))
            assert {row.ok for row in rows} == {True}, rows
            assert all(not np.array_equal(got[tensor], wanted) for tensor, wanted in probe.outputs.items())
            seen += 1
    assert seen


def test_the_others_stay_in_fp32_and_the_record_says_so(both, bundle):
    kept = {graph for precision, graph, _ in kept_fp32(both) if precision == "int8"}
    assert kept == {"content", "content_low", "pitch"}
    assert {row.graph for row in recorded(both)} == {*IN_8_BITS, "end_to_end"}
    assert set(both.manifest.variants["int8"]) == set(IN_8_BITS)


@pytest.mark.parametrize("name", IN_8_BITS)
def test_weights_have_seven_bits_so_that_no_sum_of_two_overflows(both, name):
    """Products of 8 by 8 bits are added in pairs in 16 bits where there is no VNNI."""
    tensors = {tensor.name: tensor for tensor in in_8_bits(both, name).graph.initializer}
    weights = [numpy_helper.to_array(tensor) for tensor in tensors.values() if tensor.data_type == TensorProto.INT8]
    kernels = [weight for weight in weights if weight.ndim > 1]
    assert len(kernels) > 10
    assert max(np.abs(kernel.astype(int)).max() for kernel in kernels) <= 64


def heavy_inputs(model):
    """By heavy node: its weight's name, and whether it reads that from 8 bits."""
    producers = {output: node for node in model.graph.node for output in node.output}
    for node in model.graph.node:
        if node.op_type in HEAVY:
            producer = producers.get(node.input[1])
            eight = producer is not None and producer.op_type == "DequantizeLinear"
            yield (producer.input[0] if eight else node.input[1]), eight


def test_transforms_and_the_last_layers_stay_in_float32(both):
    vocoder = dict(heavy_inputs(in_8_bits(both, "vocoder")))
    assert {name: eight for name, eight in vocoder.items() if "dft" in name} == {
        name: False for name in vocoder if "dft" in name
    }
    assert any("dft" in name for name in vocoder)
    assert any(vocoder.values())
    student = dict(heavy_inputs(in_8_bits(both, "acoustic")))
    last = {name for name in student if "denoiser.skip_projection" in name or "denoiser.output_projection" in name}
    assert len(last) == 2
    assert not any(student[name] for name in last)
    assert sum(student.values()) == len(student) - len(last) - 2  # and two of one channel each, F0 and loudness


def test_ranges_are_measured_on_what_the_voice_itself_makes(bundle):
    """A content encoder that speaks louder widens the ranges behind it."""
    maker = input_maker(bundle.manifest, bundle.embeddings)

    def scales(factor):
        def opened(name):
            run = onnx_runner(bundle.graph_bytes(name))
            return lambda inputs: {tensor: np.float32(factor) * value for tensor, value in run(inputs).items()}

        model = onnx.load_from_string(bundle.graph_bytes("acoustic"))
        made = onnx.load_from_string(make_int8("acoustic", model, maker, opened).data)
        values = {tensor.name: numpy_helper.to_array(tensor) for tensor in made.graph.initializer}
        return next(float(values[node.input[1]]) for node in made.graph.node if node.input[0] == "content")

    assert scales(100.0) > 2.0 * scales(1.0)


def test_a_graph_without_wide_layers_stays(bundle):
    model = onnx.load_from_string(bundle.graph_bytes("pitch"))
    maker = input_maker(bundle.manifest, bundle.embeddings)
    with pytest.raises(StaysFloat32Error, match="nothing of it is worth computing in 8 bits"):
        make_int8("vocoder", onnx.ModelProto(graph=onnx.GraphProto()), maker, lambda name: onnx_runner(b""))
    with pytest.raises(StaysFloat32Error, match=r"^in static 8 bits its F0 is 11 cents off"):
        make_int8("pitch", model, maker, lambda name: onnx_runner(b""))
