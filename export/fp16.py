"""Precision fp16: graphs that say float16, with islands of float32 where they need them."""

import logging
from collections.abc import Collection, Mapping

import numpy as np
import onnx
from onnx import ModelProto

from ..runtime.graph import GRAPHS
from .half import FLOAT16, HEAVY, ISLANDS, element_types, island_of, to_float16
from .inputs import InputMaker
from .parity import Runner, onnx_runner
from .ranges import extreme_inputs, largest
from .rounding import rounded
from .variants import Made, OpenFp32, Precision, StaysFloat32Error

logger = logging.getLogger(__name__)
FLOAT16_MAX = 65_504.0
SHARE = 0.25
"""What comes beyond this share of `FLOAT16_MAX` stays in float32: a factor of four for inputs nobody thought of."""


def make_fp16(graph: str, model: ModelProto, maker: InputMaker, _: OpenFp32) -> Made:
    """The graph in float16, nodes whose numbers come near its end left in float32.

    Raises `StaysFloat32Error` for one that gives what is no number, in float32 or in float16, or has nothing to gain.
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
    """What is in float16, what keeps the rest out, and how near float16's end it comes."""
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
    """What the file computes where float16 is real: see `rounding`. The file itself must load too."""
    onnx_runner(data)
    return onnx_runner(rounded(onnx.load_from_string(data)).SerializeToString())


def _require_finite(graph: str, runner: Runner, maker: InputMaker) -> None:
    for number, inputs in enumerate(extreme_inputs(GRAPHS[graph], maker)):
        bad = [name for name, value in runner(inputs).items() if not np.isfinite(value).all()]
        if bad:
            raise StaysFloat32Error(f"{bad[0]} is not finite in float16 with extreme input {number}")


FP16 = Precision("fp16", make_fp16, fp16_runner)
