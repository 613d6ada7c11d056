"""The pitch graph: swift-f0's MIT model, rewired to our contract."""

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper

from comosvc.export.graphs.trace import stamp
from comosvc.runtime.voice.graphs import GRAPHS

F0_MIN_HZ = 50.0
F0_MAX_HZ = 1400.0
"""F6, above a soprano's written range; narrower than the model's 47-2094 Hz leaves less room for octave errors."""

HOP = 256  # samples at 16 kHz: a pitch frame every 16 ms
SILENCE_PEAK = 1e-3
"""swift-f0 0.3.0, `core.py`: the model never saw digital silence and answers it with random voiced frames."""

SOURCE = "model.onnx of swift-f0 0.3.0, MIT licence, Copyright (c) 2025-2026 Lars Nieradzik"


def adapt_swift_f0(original: ModelProto, f0_min_hz: float = F0_MIN_HZ, f0_max_hz: float = F0_MAX_HZ) -> ModelProto:
    """swift-f0's graph with the inputs and outputs of the pitch contract: `audio (B, N)` -> `f0_hz, confidence (B, P)`.

    Four changes, none to a weight: the search band becomes a constant, the batch becomes free (the original lays frames
    along the batch dimension of its STFT), the last operations run in float32 (TensorRT has no double), and the silence
    rule that swift-f0 keeps in Python moves into the graph. `P = max(1, N // 256)`; frame p is centred on sample 256 p.
    """
    model = ModelProto()
    model.CopyFrom(original)
    graph = model.graph
    for name, value in (("fmin", f0_min_hz), ("fmax", f0_max_hz)):
        graph.input.remove(next(item for item in graph.input if item.name == name))
        _add_constant(graph, name, np.array(value, np.float32))
    _free_the_batch(graph)
    _use_float32(graph)
    _gate_silence(graph)
    _drop_unused_constants(graph)
    next(node for node in graph.node if "pitch" in node.output).output[0] = "f0_hz"
    contract = GRAPHS["pitch"]
    for values, specs in ((graph.input, contract.inputs), (graph.output, contract.outputs)):
        del values[:]
        values.extend(helper.make_tensor_value_info(item.name, TensorProto.FLOAT, list(item.dims)) for item in specs)
    weights = {entry.key: entry.value for entry in original.metadata_props}.get("checkpoint_sha256", "")
    band = {"f0_min_hz": str(f0_min_hz), "f0_max_hz": str(f0_max_hz)}
    stamp(model, contract, {"source": SOURCE, "source_checkpoint_sha256": weights, **band})
    onnx.checker.check_model(model, full_check=True)
    return model


def _free_the_batch(graph: GraphProto) -> None:
    """Keep the batch apart while samples are cut into frames, and bring it back behind each STFT."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    _add_constant(graph, "batch_hops", np.array([0, -1, HOP]))
    _add_constant(graph, "axis_1", np.array([1]))
    framed: set[str] = set()  # values of shape (B, hops, 256)
    spectra: dict[str, int] = {}  # values of shape (B * P, bins)
    nodes = [helper.make_node("Shape", ["audio"], ["batch"], start=0, end=1)]
    for node in graph.node:
        if node.op_type == "Reshape" and constants[node.input[1]].tolist() == [-1, HOP]:
            node.input[1] = "batch_hops"
            framed.add(node.output[0])
        elif node.op_type == "Slice" and node.input[0] in framed:
            node.input[3] = "axis_1"
            framed.add(node.output[0])
        elif node.op_type == "Concat" and node.input[0] in framed:
            node.attribute[0].i = 2
        elif node.op_type == "Slice" and node.input[2] in constants:
            spectra[node.output[0]] = int(constants[node.input[2]][0])
        elif node.op_type == "Unsqueeze" and node.input[0] in spectra:
            bins = spectra[node.input[0]]
            _add_constant(graph, f"frames_by_{bins}", np.array([-1, bins]))
            nodes.append(helper.make_node("Concat", ["batch", f"frames_by_{bins}"], [f"batch_by_{bins}"], axis=0))
            node = helper.make_node("Reshape", [node.input[0], f"batch_by_{bins}"], [node.output[0]])
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def _use_float32(graph: GraphProto) -> None:
    """The original averages log-F0 over three bins in double; float32 moves the result by less than 0.01 cents."""
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.DOUBLE:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.i == TensorProto.DOUBLE:
                attribute.i = TensorProto.FLOAT


def _gate_silence(graph: GraphProto) -> None:
    """Confidence 0 where a frame's own hop never reaches `SILENCE_PEAK`."""
    padded = next(node for node in graph.node if node.op_type == "Pad").output[0]  # (B, max(N, 256))
    next(node for node in graph.node if "confidence" in node.output).output[0] = "confidence_ungated"
    _add_constant(graph, "hop", np.array([HOP]))
    _add_constant(graph, "start_0", np.array([0]))
    _add_constant(graph, "axis_2", np.array([2]))
    _add_constant(graph, "silence_peak", np.array(SILENCE_PEAK, np.float32))
    _add_constant(graph, "unvoiced", np.array(0, np.float32))
    graph.node.extend(
        [
            helper.make_node("Shape", ["confidence_ungated"], ["frame_count"], start=1, end=2),
            helper.make_node("Mul", ["frame_count", "hop"], ["whole_hops"]),
            helper.make_node("Slice", [padded, "start_0", "whole_hops", "axis_1"], ["hop_samples"]),
            helper.make_node("Reshape", ["hop_samples", "batch_hops"], ["hops"]),
            helper.make_node("Abs", ["hops"], ["magnitudes"]),
            helper.make_node("ReduceMax", ["magnitudes", "axis_2"], ["peaks"], keepdims=0),
            helper.make_node("Less", ["peaks", "silence_peak"], ["silent"]),
            helper.make_node("Where", ["silent", "unvoiced", "confidence_ungated"], ["confidence"]),
        ]
    )


def _drop_unused_constants(graph: GraphProto) -> None:
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)


def _add_constant(graph: GraphProto, name: str, value: np.ndarray) -> None:
    graph.initializer.append(numpy_helper.from_array(value, name))
