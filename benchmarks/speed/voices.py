"""Our own voices as a user runs them: `Converter.convert`, and `convert_many` for a batch."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import numpy as np
import soundfile

from ...runtime import Converter
from ...runtime.providers import ON_GPU, Precision, Provider
from ...runtime.providers.cuda import CudaGraph
from ...runtime.providers.gpu import Device
from ...runtime.providers.tensorrt.build import BUILD
from ...runtime.providers.tensorrt.cache import EngineRecord
from ...runtime.voice.manifest import FROM_FP32, Manifest
from .chain import CLIP_RATE, Chain, Pass, sung_clip
from .results import Loaded
from .tables import OTHER
from .timing import Sample, Turn, resident_mb

STAGE_OF = {"content": "content", "pitch": "f0", "acoustic": "acoustic", "vocoder": "vocoder"}
"""Names in `timings_ms` to stages."""


@dataclass(frozen=True)
class ReadyVoice:
    """A voice to load, and facts on it that its manifest lacks."""

    model: str | Path
    facts: Loaded | None = None


class VoiceChain:
    """A voice loaded by `Converter`. `facts`: sizes of its networks. `cuda_graphs`: if the provider has any."""

    def __init__(
        self,
        model: str | Path,
        threads: int,
        provider: str,
        precision: str,
        facts: Loaded | None = None,
        cuda_graphs: bool = True,
    ) -> None:
        self._gpu = Device() if provider in ON_GPU else None
        self._used_before = 0 if self._gpu is None else self._gpu.used_bytes()
        libraries, start = resident_mb(), time.perf_counter()
        if provider == "tensorrt":
            os.environ.setdefault(BUILD, "1")  # the build has a figure of its own
        self._converter = Converter(
            model, provider=cast(Provider, provider), precision=cast(Precision, precision), threads=threads
        )
        load_s = time.perf_counter() - start
        manifest = self._converter.manifest
        known = facts or Loaded(title=f"voice {manifest.name}", sample_rate=manifest.audio.sample_rate)
        own = {"load_s": load_s, "libraries_mb": libraries, "fp32_graphs": fp32_graphs(manifest, precision)}
        self.loaded = replace(known, **own, **engine_facts(self._converter.engines))
        if not cuda_graphs:
            for graph in (self._converter._graphs or {}).values():
                cast(CudaGraph, graph).captured_frames = 0

    def prepare(self, seconds: float, batch: int) -> Pass:
        clip = sung_clip(seconds, CLIP_RATE).astype(np.float32)
        return (lambda _: self._one(clip)) if batch == 1 else (lambda _: self._many(clip, batch))

    def device_peak_mb(self, reset: bool) -> float | None:
        """Memory of the GPU in use beyond that before loading: engines return none."""
        return None if self._gpu is None else (self._gpu.used_bytes() - self._used_before) / 1e6

    def _one(self, clip: np.ndarray) -> Turn:
        wall, cpu = time.perf_counter(), time.process_time()
        result = self._converter.convert(clip, CLIP_RATE)
        return _turn(time.perf_counter() - wall, time.process_time() - cpu, [result.timings_ms])

    def _many(self, clip: np.ndarray, batch: int) -> Turn:
        """`batch` files in common graph calls: the public way to a batch, so reading and writing them is counted."""
        with TemporaryDirectory() as folder:
            sources = [Path(folder) / f"{number}.wav" for number in range(batch)]
            for source in sources:
                soundfile.write(source, clip, CLIP_RATE)
            wall, cpu = time.perf_counter(), time.process_time()
            results = list(self._converter.convert_many(sources, Path(folder) / "out", batch=batch))
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        for result in results:
            if result.error is not None:
                raise result.error
        return _turn(wall, cpu, [result.timings_ms for result in results])


def engine_facts(record: EngineRecord | None) -> dict[str, float]:
    """Build time and size of TensorRT's engines; empty for a voice without engines."""
    if record is None:
        return {}
    return {
        "engine_build_s": record.seconds,
        "engine_mb": sum(plan.size_bytes for plan in record.plans.values()) / 1e6,
    }


def fp32_graphs(manifest: Manifest, precision: str) -> tuple[str, ...]:
    """Those that a voice has no file of its own for in this precision: they are computed in fp32."""
    if precision in FROM_FP32:
        return ()
    return tuple(name for name, entry in manifest.entries(precision).items() if entry.precision != precision)


def open_voice(provider: str, precision: str, cuda_graphs: bool, ready: ReadyVoice, threads: int) -> Chain:
    return VoiceChain(ready.model, threads, provider, precision, ready.facts, cuda_graphs)


def _turn(wall_s: float, cpu_s: float, timings_ms: list[Mapping[str, float]]) -> dict[str, Sample]:
    """The runtime times its stages on the wall; their processor time is their share of the whole's."""
    walls = {
        stage: 1e-3 * sum(timings[name] for timings in timings_ms)
        for name, stage in STAGE_OF.items()
        if name in timings_ms[0]
    }
    walls[OTHER] = max(0.0, wall_s - sum(walls.values()))
    return {stage: Sample(wall, cpu_s * wall / wall_s) for stage, wall in walls.items()}
