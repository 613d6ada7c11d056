"""The least that a stage reads and writes, from which its GB/s are counted.

Every weight once in an evaluation, every input and output of the network once. It is a lower bound: what the layers
hand to each other goes through memory too where no cache holds it, and a clip that is cut into pieces reads the weights
for each. So are the GB/s, and their share of what the machine copies.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TypedDict

import numpy as np

from ...runtime.bundle import Bundle
from ...runtime.pitch import PITCH_HOP_LENGTH, PITCH_SAMPLE_RATE
from .chain import networks
from .stage import SpeedSystem

FLOAT_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
_COUNTED_S = 10.0

Tensor = tuple[str, Sequence[int | str]]
"""Element type, and dimensions, those that differ by their letters."""


class Traffic(TypedDict):
    """By stage, of each evaluation: MB of weights, and MB of inputs and outputs per second of audio."""

    weights_mb: dict[str, float]
    ends_mb_per_s: dict[str, float]


def of_system(system: SpeedSystem, precision: str) -> Traffic:
    """Of a baseline whose weights and inputs are in `precision`. An output of unknown size is left out."""
    stages, float_bytes = networks(system), FLOAT_BYTES[precision]
    sizes = {"L": round(_COUNTED_S * system.sample_rate)}
    tensors: dict[str, list[Tensor]] = {}
    for stage in stages:
        arrays = stage.inputs(_COUNTED_S, 1)
        taken = [tensor for tensor in stage.graph.inputs if tensor.name in arrays]
        for tensor in taken:
            sizes |= dict(zip(tensor.dims, arrays[tensor.name].shape, strict=True))
        tensors[stage.name] = [(tensor.dtype, tensor.dims) for tensor in (*taken, *stage.graph.outputs)]
    return Traffic(
        weights_mb={stage.name: system.parameters[stage.name] * float_bytes / 1e6 for stage in stages},
        ends_mb_per_s={name: _mb_per_s(found, sizes, float_bytes) for name, found in tensors.items()},
    )


def of_voice(bundle: Bundle, precision: str, stage_of: Mapping[str, str]) -> Traffic:
    """Of a voice's graphs that `stage_of` names. What goes in and out is float32 in any precision."""
    import onnx  # of those who make a voice ready; who runs one has no need of it

    audio = bundle.manifest.audio
    rates_hz = {
        "T": audio.frame_rate_hz,
        "L": audio.sample_rate,
        "N": audio.content_sample_rate,
        "S": audio.content_sample_rate / audio.content_hop_length,
        "P": PITCH_SAMPLE_RATE / PITCH_HOP_LENGTH,
    }
    float_bytes = 2 if precision == "bf16" else 4  # the engine converts them; a graph in fp16 says so itself
    sizes = {"B": 1, **{letter: round(_COUNTED_S * rate) for letter, rate in rates_hz.items()}}
    found = Traffic(weights_mb={}, ends_mb_per_s={})
    for name, entry in bundle.manifest.entries(precision).items():
        if name not in stage_of:
            continue
        graph = onnx.load_from_string(bundle.entry_bytes(name, entry)).graph
        weights = [(onnx.helper.tensor_dtype_to_np_dtype(t.data_type).name, t.dims) for t in graph.initializer]
        found["weights_mb"][stage_of[name]] = sum(_n_bytes(w, {}, float_bytes) for w in weights) / 1e6
        ends = [(dtype, dims) for _, dtype, dims in (*entry.inputs, *entry.outputs)]
        found["ends_mb_per_s"][stage_of[name]] = _mb_per_s(ends, sizes, 4)
    return found


def _mb_per_s(tensors: Iterable[Tensor], sizes: Mapping[str, int], float_bytes: int) -> float:
    return sum(_n_bytes(tensor, sizes, float_bytes) for tensor in tensors) / 1e6 / _COUNTED_S


def _n_bytes(tensor: Tensor, sizes: Mapping[str, int], float_bytes: int) -> int:
    """0 where a size is not known. `float_bytes`: of what says float32."""
    dtype, dims = tensor
    known = [sizes.get(dim, 0) if isinstance(dim, str) else dim for dim in dims]
    return math.prod(known) * (float_bytes if dtype == "float32" else np.dtype(dtype).itemsize)
