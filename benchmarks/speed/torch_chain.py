"""Systems in torch: eagerly, or compiled."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .chain import Call, Chain, Pass, Place, describe, make_steps, networks
from .memory import resident_mb
from .stage import SpeedSystem, Stage
from .timing import Clock, Turn, time_steps
from .traffic import of_system

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
        if self._compiled:  # what was compiled for other sizes, of which only so many are kept
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

    def _network(self, stage: Stage) -> tuple[Call, Place]:
        module = self._modules[stage.name]

        def call(inputs: dict[str, Any]) -> Any:
            outputs = module(**inputs)
            return outputs[0] if isinstance(outputs, tuple) else outputs

        def place(array: NDArray[Any]) -> torch.Tensor:
            tensor = torch.from_numpy(np.array(array))
            return tensor.to(self._device, self._dtype if tensor.is_floating_point() else tensor.dtype)

        return call, place

    def _autocast(self) -> torch.autocast:
        """For what a network computes in float32 of its own accord. Weights are converted already and stay so."""
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
