"""Precision int8: the student's and the vocoder's convolutions and products with weights in 8 bits, for the processor.

Static: ranges of activations are taken from the voice's own chain, beforehand, so that ONNX Runtime computes
in whole numbers from one convolution to the next. Content and pitch are left out (`LOSSES`); of ContentVec, one scale
for a whole feature map loses 7e-2, and 2e-2 with one for each call.

Weights have seven bits. Without VNNI two products are summed in 16, which with eight bits may overflow.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx import ModelProto
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.quant_utils import add_pre_process_metadata

from ..graphs.inputs import Arrays, InputMaker
from ..graphs.parity import chain_feed, chain_inputs, chain_step, onnx_runner
from .half import HEAVY, Island, island_of
from .variants import Budget, Made, OpenFp32, Precision, StaysFloat32Error

LOSSES = {
    "content": "in static 8 bits the demo's is 7.7e-2 off (relative), ContentVec 7e-2; at most 5e-2 is allowed",
    "content_low": "in static 8 bits the demo's is 6.2e-2 off (relative); at most 5e-2 is allowed",
    "pitch": "in static 8 bits its F0 is 11 cents off and its confidence 0.31; at most 1 and 0.02 are allowed",
}
"""Measured losses of the graphs that are not in 8 bits, and the limits that they exceed."""
LEAST_CHANNELS = 16
"""Narrower ones, as where audio comes in and goes out, gain nothing and put their error into the sound itself."""
_ISLANDS = (
    Island(
        "the student's last two layers: of the demo's they make 60 % of the error, and 1 % of the work",
        constants=("*.denoiser.skip_projection.weight", "*.denoiser.output_projection.weight"),
    ),
)
"""Nodes that stay in float32 besides those of fp16."""
_SEEDS, _SINGERS, _FRAMES = (10, 11), 8, 281


def make_int8(graph: str, model: ModelProto, maker: InputMaker, open_fp32: OpenFp32) -> Made:
    """The graph in 8 bits. Raises `StaysFloat32Error` for those that gain nothing by it or lose too much."""
    if graph in LOSSES:
        raise StaysFloat32Error(LOSSES[graph])
    for number, node in enumerate(model.graph.node):
        node.name = f"{number}-{node.op_type}"
    chosen = list(_heavy(model, graph))
    if not chosen:
        raise StaysFloat32Error("nothing of it is worth computing in 8 bits")
    made = _quantized(model, chosen, _calibration(graph, maker, open_fp32))
    return Made(made.SerializeToString(deterministic=True), {"nodes": len(model.graph.node), "int8_nodes": len(chosen)})


def _heavy(model: ModelProto, graph: str) -> Iterator[str]:
    """Names of the nodes that multiply with constant weights of many channels and are no island."""
    shapes = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type not in HEAVY or island_of(node, graph, _ISLANDS):
            continue
        if min(shapes.get(node.input[1], ())[:2], default=0) >= LEAST_CHANNELS:
            yield node.name


def _calibration(graph: str, maker: InputMaker, open_fp32: OpenFp32) -> Iterator[Arrays]:
    """Inputs of `graph` as the voice's own float32 graphs make them of sung clips, up to eight singers each."""
    before = {name: open_fp32(name) for name in ("content", "acoustic") if name != graph}
    for seed in _SEEDS:
        audio, inputs = chain_inputs(maker, _SINGERS, _FRAMES, seed)
        state: Arrays = {"audio": audio}
        for name, runner in before.items():
            state |= chain_step(name, runner, state, inputs, maker.audio)
        yield chain_feed(graph, state, inputs)
        yield inputs[graph]


def _quantized(model: ModelProto, nodes: list[str], clips: Iterator[Arrays]) -> ModelProto:
    add_pre_process_metadata(model)  # shapes are known and constants folded
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "made.onnx"
        quantize_static(
            model,
            path,
            _Clips([value.name for value in model.graph.input], clips),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=sorted(HEAVY),
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=nodes,
        )
        return onnx.load(path)


class _Clips(CalibrationDataReader):
    """Of each clip the inputs that the graph takes."""

    def __init__(self, names: list[str], clips: Iterator[Arrays]) -> None:
        self._names, self._clips = names, clips

    def get_next(self) -> Arrays | None:  # type: ignore[override]  # as it is called
        clip = next(self._clips, None)
        return clip and {name: clip[name] for name in self._names}


_MEL = Budget("mel_nepers", 0.04, "a tenth of what the demo's student itself is off by; bf16 loses as much")
_BUDGETS = {
    "acoustic": (_MEL,),
    "acoustic_n": (_MEL,),
    "vocoder": (Budget("snr_db", 30.0, "a voice masks noise of its own spectrum 20 dB below it, and this is whiter"),),
    "end_to_end": (
        Budget("snr_db", 20.0, "the vocoder follows each difference in the mel, which the budget of the mel limits"),
        Budget("f0_cents", 3.0, "below the 5 cents that are heard"),
    ),
}
INT8 = Precision("int8", make_int8, onnx_runner, _BUDGETS)
