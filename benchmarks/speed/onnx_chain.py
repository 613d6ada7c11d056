"""Systems exported to ONNX, in ONNX Runtime."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...runtime.providers.onnx import open_session
from .chain import Call, Chain, Pass, Place, describe, make_steps
from .memory import resident_mb
from .stage import SpeedSystem, Stage
from .timing import Clock, time_steps
from .traffic import of_system


@dataclass(frozen=True)
class ExportedStage:
    """A graph on disk. `seconds`: what tracing took when it was made."""

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

    def _network(self, stage: Stage) -> tuple[Call, Place]:
        session, first = self._sessions[stage.name], [stage.graph.outputs[0].name]
        return lambda inputs: session.run(first, inputs)[0], np.asarray


def open_onnx(make: Callable[[], SpeedSystem], ready: Mapping[str, ExportedStage], threads: int) -> Chain:
    return OnnxChain(make(), ready, threads)
