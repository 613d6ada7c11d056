"""Systems in ONNX Runtime and in torch, and the least that a stage reads and writes."""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray

from ...runtime.audio.pitch import PITCH_HOP_LENGTH, PITCH_SAMPLE_RATE
from ...runtime.providers.sessions import open_session
from ...runtime.voice.bundle import Bundle
from ..baselines.steps import SpeedSystem, TimedStep
from .chain import Call, Chain, Pass, Place, describe, make_steps, networks
from .timing import Clock, Turn, resident_mb, time_steps

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
    """Of a voice's graphs that `stage_of` names. Inputs and outputs are float32 in any precision."""
    import onnx  # not for running a voice

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
    """0 where a size is not known. `float_bytes`: size of a float32 element in this precision."""
    dtype, dims = tensor
    known = [sizes.get(dim, 0) if isinstance(dim, str) else dim for dim in dims]
    return math.prod(known) * (float_bytes if dtype == "float32" else np.dtype(dtype).itemsize)


@dataclass(frozen=True)
class ExportedStage:
    """A graph on disk. `seconds`: duration of its tracing."""

    stage: str
    path: Path
    seconds: float
    was_cached: bool


class OnnxChain:
    """The exported networks in ONNX Runtime, opened as the runtime opens those of a voice."""

    def __init__(self, system: SpeedSystem, exported: Mapping[str, ExportedStage], threads: int) -> None:
        self._system = system
        libraries, start = resident_mb(), time.perf_counter()
        self._sessions = {
            name: open_session(graph.path.read_bytes(), f"the {name} graph of {system.id}", threads)
            for name, graph in exported.items()
        }
        self.loaded = describe(
            system,
            load_s=time.perf_counter() - start,
            export_s=sum(graph.seconds for graph in exported.values()),
            libraries_mb=libraries,
            **of_system(system, "fp32"),
        )

    def prepare(self, seconds: float, batch: int) -> Pass:
        steps = make_steps(self._system, seconds, batch, self._network)
        return lambda most: time_steps(steps, Clock(), most)

    def device_peak_mb(self, reset: bool) -> float | None:
        return None

    def _network(self, stage: TimedStep) -> tuple[Call, Place]:
        session, first = self._sessions[stage.name], [stage.graph.outputs[0].name]
        return lambda inputs: session.run(first, inputs)[0], np.asarray


def open_onnx(make: Callable[[], SpeedSystem], ready: Mapping[str, ExportedStage], threads: int) -> Chain:
    return OnnxChain(make(), ready, threads)


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class TorchChain:
    """The networks as torch runs them, weights and floating inputs converted to `precision` once.

    `compiler`: None runs them eagerly, else the backend of `torch.compile`, which compiles anew for each size.
    """

    def __init__(
        self,
        system: SpeedSystem,
        threads: int,
        device: str,
        precision: str,
        overhead_s: float | None = None,
        compiler: str | None = None,
    ) -> None:
        torch.set_num_threads(threads)
        self._system, self._device, self._dtype = system, torch.device(device), DTYPES[precision]
        libraries, start = resident_mb(), time.perf_counter()
        modules = {stage.name: stage.build().eval() for stage in networks(system)}
        built = time.perf_counter()
        self._modules = {name: module.to(self._device, self._dtype) for name, module in modules.items()}
        self._compiled = compiler is not None
        if compiler is not None:
            for module in self._modules.values():
                module.compile(backend=compiler, dynamic=False)
        self._sync()
        self.loaded = describe(
            system,
            build_s=built - start,
            load_s=time.perf_counter() - built,
            overhead_s=overhead_s,
            libraries_mb=libraries,
            **of_system(system, precision),
        )

    def prepare(self, seconds: float, batch: int) -> Pass:
        if self._compiled:  # drops code for other sizes, of which torch keeps a few only
            torch.compiler.reset()
        steps = make_steps(self._system, seconds, batch, self._network)

        def once(most: int | None) -> Turn:
            with torch.inference_mode(), self._autocast():
                return time_steps(steps, Clock(sync=self._sync), most)

        return once

    def device_peak_mb(self, reset: bool) -> float | None:
        if self._device.type != "cuda":
            return None
        peak = torch.cuda.max_memory_allocated(self._device) / 1e6
        if reset:
            torch.cuda.reset_peak_memory_stats(self._device)
        return peak

    def _network(self, stage: TimedStep) -> tuple[Call, Place]:
        module = self._modules[stage.name]

        def call(inputs: dict[str, Any]) -> Any:
            outputs = module(**inputs)
            return outputs[0] if isinstance(outputs, tuple) else outputs

        def place(array: NDArray[Any]) -> torch.Tensor:
            tensor = torch.from_numpy(np.array(array))
            return tensor.to(self._device, self._dtype if tensor.is_floating_point() else tensor.dtype)

        return call, place

    def _autocast(self) -> torch.autocast:
        """For parts that a network computes in float32 by itself. Weights are converted already."""
        return torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32)

    def _sync(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def open_torch(
    make: Callable[[], SpeedSystem],
    device: str,
    precision: str,
    compiler: str | None,
    overhead_s: float | None,
    threads: int,
) -> Chain:
    return TorchChain(make(), threads, device, precision, overhead_s, compiler)
