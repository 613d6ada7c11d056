"""Precision fp16: ranges of values, rounding on a processor without float16, and islands of float32."""

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import product

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from ...runtime.audio.features import mel_spectrogram
from ...runtime.audio.spec import AudioSpec
from ...runtime.conversion.source import clip_source
from ...runtime.voice.graphs import GRAPHS, GraphSpec
from ..graphs.inputs import Arrays, InputMaker
from ..graphs.parity import Runner, onnx_runner
from .half import FLOAT, FLOAT16, HEAVY, ISLANDS, element_types, island_of, to_float16, without_body
from .variants import Made, OpenFp32, Precision, StaysFloat32Error

_SIGMAS = 6.0
"""Normal noise goes beyond this once in half a billion samples."""
_F0_HZ = (0.0, 50.0, 1_400.0)
_FRAMES, _LONG_S, _SHORT_S = 96, 20, 1


def largest(model: ModelProto, inputs: Iterable[Arrays]) -> dict[str, float]:
    """The largest magnitude of every float value of a graph over all `inputs`, constants too, by its name.

    NaN where one was not a number.
    """
    kinds = element_types(model)
    found = {t.name: _peak(numpy_helper.to_array(t)) for t in model.graph.initializer if t.data_type == FLOAT}
    names = [name for node in model.graph.node for name in node.output if kinds.get(name) == FLOAT]
    run = onnx_runner(_with_peaks(model, names).SerializeToString())
    for arrays in inputs:
        got = run(arrays)
        peaks = {name: _peak(value) for name, value in arrays.items() if value.dtype == np.float32}
        # A kernel's maximum may pass over NaN; its sum does not.
        peaks |= {n: float(got[f"{n}.peak"]) if not np.isnan(got[f"{n}.sum"]) else np.nan for n in names}
        found |= {name: float(np.maximum(peak, found.get(name, 0.0))) for name, peak in peaks.items()}
    return found


def _peak(value: NDArray) -> float:
    return float(np.abs(value).max(initial=0.0))


def _with_peaks(model: ModelProto, names: list[str]) -> ModelProto:
    """The model with largest magnitude and sum of magnitudes of each value as outputs instead of its own."""
    made = ModelProto()
    made.CopyFrom(model)
    del made.graph.output[:]
    # Last ones first: ONNX Runtime then computes each as soon as it can, else all values live to the end, 4 GB more.
    for name in reversed(names):
        made.graph.node.append(helper.make_node("Abs", [name], [f"{name}.abs"]))
        for op, end in (("ReduceMax", "peak"), ("ReduceSum", "sum")):
            made.graph.node.append(helper.make_node(op, [f"{name}.abs"], [f"{name}.{end}"], keepdims=0))
            made.graph.output.append(helper.make_tensor_value_info(f"{name}.{end}", TensorProto.FLOAT, []))
    return made


def extreme_inputs(spec: GraphSpec, maker: InputMaker) -> Iterator[Arrays]:
    """Inputs of a graph at the limits of their ranges: full scale, lowest and highest F0, mel and loudness, 6 sigma."""
    if spec.inputs[0].name == "audio":
        yield from _extreme_audio(spec, maker)
        return
    rng = np.random.default_rng(4)
    usual = maker.make(spec, 1, _FRAMES, seed=4)
    steps = range(maker.n_sigmas) if "step_index" in usual else (0,)
    for f0_hz, mel, step in product(_F0_HZ, _extreme_mels(maker.audio) if "mel" in usual else (None,), steps):
        f0 = np.full((1, _FRAMES), f0_hz, np.float32)
        extreme = {
            "f0_hz": f0,
            "mel": mel,
            "step_index": np.array(step, np.int32),
            "loudness": rng.integers(0, 2, f0.shape).astype(np.float32),
            "content": _extreme_content(usual["content"], maker.phones, rng) if "content" in usual else None,
            "noise": _SIGMAS * _signs(rng, usual["noise"].shape),
            "source": _extreme_source(maker, f0[0]) if "source" in usual else None,
        }
        yield {**usual, **{name: value for name, value in extreme.items() if name in usual and value is not None}}


def _extreme_audio(spec: GraphSpec, maker: InputMaker) -> Iterator[Arrays]:
    """Noise, a square wave, a tone, a click and silence, all at full scale, and singing, long where attention is."""
    rate, rng = maker.audio.content_sample_rate, np.random.default_rng(4)
    seconds = np.arange(_SHORT_S * rate) / rate
    click = np.zeros(len(seconds))
    click[len(click) // 2] = 1.0
    tone = np.sin(2.0 * np.pi * 440.0 * seconds)
    square = np.sign(np.sin(2.0 * np.pi * 110.0 * seconds))
    for sound in (rng.uniform(-1.0, 1.0, len(seconds)), square, tone, click, np.zeros(len(seconds))):
        yield {"audio": sound.astype(np.float32)[None]}
    sung = maker.make(spec, 1, (_LONG_S if spec.name == "content" else _SHORT_S) * rate, seed=4)["audio"]
    yield {"audio": sung / np.abs(sung).max()}


def _extreme_mels(audio: AudioSpec) -> list[NDArray[np.float32]]:
    """(1, T, M) at the mel's floor, at the highest that full scale gives, and jumping between the two."""
    seconds = np.arange(audio.samples(_FRAMES)) / audio.sample_rate
    tones = np.geomspace(audio.f_min_hz, audio.f_max_hz, 4 * audio.n_mels, endpoint=False)
    loud = [mel_spectrogram(np.sin(2.0 * np.pi * hz * seconds).astype(np.float32), audio).max(axis=0) for hz in tones]
    high = np.tile(np.max(loud, axis=0), (_FRAMES, 1))
    low = np.full_like(high, np.log(audio.mel_floor) / np.log(audio.mel_log_base))
    return [low[None], high[None], np.where(np.arange(_FRAMES)[:, None] % 8 < 4, low, high)[None]]


def _extreme_content(usual: NDArray, phones: bool, rng: np.random.Generator) -> NDArray:
    if phones:
        return np.eye(usual.shape[2], dtype=np.float32)[rng.integers(usual.shape[2], size=usual.shape[:2])]
    return _SIGMAS * _signs(rng, usual.shape)


def _extreme_source(maker: InputMaker, f0_hz: NDArray[np.float32]) -> NDArray[np.float32] | None:
    return None if maker.source_kind == "none" else clip_source(maker.source_kind, f0_hz, maker.audio, 4)[None]


def _signs(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    return rng.choice(np.array([-1.0, 1.0], np.float32), shape)


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


logger = logging.getLogger(__name__)
FLOAT16_MAX = 65_504.0
SHARE = 0.25
"""Values beyond this share of `FLOAT16_MAX` stay in float32: a margin of four for unforeseen inputs."""


def make_fp16(graph: str, model: ModelProto, maker: InputMaker, _: OpenFp32) -> Made:
    """The graph in float16, nodes whose numbers come near its end left in float32.

    Raises `StaysFloat32Error` for a graph that gives NaN or infinity, in float32 or in float16, or gains nothing.
    """
    logger.info("searching %s for large numbers", graph)
    peaks = largest(model, extreme_inputs(GRAPHS[graph], maker))
    if unusable := [name for name, peak in peaks.items() if np.isnan(peak)]:
        raise StaysFloat32Error(f"{unusable[0]} and {len(unusable) - 1} more are not numbers, in float32 too")
    large = {name for name, peak in peaks.items() if peak > SHARE * FLOAT16_MAX}
    wide = [n.output[0] for n in model.graph.node if large.intersection((*n.input, *n.output))]
    half = to_float16(model, graph, wide)
    half.metadata_props.add(key="precision", value="fp16")
    kinds = element_types(half)
    computing = {node.output[0]: node.op_type for node in half.graph.node if kinds.get(node.output[0]) == FLOAT16}
    if not HEAVY.intersection(computing.values()):
        raise StaysFloat32Error("nothing of it computes in float16")
    data = half.SerializeToString(deterministic=True)
    _require_finite(graph, fp16_runner(data), maker)
    return Made(data, _facts(graph, model, computing, peaks, large))


def _facts(
    graph: str, model: ModelProto, computing: Collection[str], peaks: Mapping[str, float], large: Collection[str]
) -> dict[str, object]:
    """Number of nodes in float16, reasons for float32 in the others, and the largest magnitude in float16."""
    islands = [island_of(node, graph) for node in model.graph.node]
    found = [n.output[0] for n, island in zip(model.graph.node, islands, strict=True) if island is None]
    top = max((name for name in computing if name in peaks), key=lambda name: peaks[name])
    return {
        "nodes": len(model.graph.node),
        "float16_nodes": len(computing),
        "islands": {island.reason: islands.count(island) for island in ISLANDS if island in islands},
        "kept_for_their_range": {name: _readable(peaks[name]) for name in found if name in large},
        "largest_in_float16": {"node": top, "magnitude": _readable(peaks[top])},
    }


def _readable(magnitude: float) -> float | str:
    return float(f"{magnitude:.4g}") if np.isfinite(magnitude) else "infinite"


def fp16_runner(data: bytes) -> Runner:
    """Runs the graph as a device with float16 does: see `rounded`. The file itself must load too."""
    onnx_runner(data)
    return onnx_runner(rounded(onnx.load_from_string(data)).SerializeToString())


def _require_finite(graph: str, runner: Runner, maker: InputMaker) -> None:
    for number, inputs in enumerate(extreme_inputs(GRAPHS[graph], maker)):
        bad = [name for name, value in runner(inputs).items() if not np.isfinite(value).all()]
        if bad:
            raise StaysFloat32Error(f"{bad[0]} is not finite in float16 with extreme input {number}")


FP16 = Precision("fp16", make_fp16, fp16_runner)
