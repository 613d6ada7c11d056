"""Targets of engines: a flavour of TensorRT and its version, a GPU, graphs, a precision, and ranges of sizes.

Flavours are TensorRT, 10.12 or later, and TensorRT RTX; each is imported when first needed.
"""

import json
from dataclasses import dataclass
from typing import Any

from ...conversion.shapes import USES, LengthRange, profile
from ...errors import ProviderError, import_native, install
from ...storage import encode, sha256
from ...voice.bundle import Bundle
from ..gpu import Gpu, find_gpu

FLAVOURS = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}
"""Name to Python module."""
_OLDEST = {"tensorrt": (10, 12), "rtx": (1, 0)}
_EXTRAS = {"tensorrt": "tensorrt", "rtx": "tensorrt-rtx"}
_NOT_AHEAD = ("SM75",)
"""RTX refuses float32 matrix products for Turing: "FP32 GEMM is not supported"."""


@dataclass(frozen=True)
class BuildTarget:
    """Where an engine runs: with the full TensorRT on one GPU, with RTX on GPUs of these compute capabilities."""

    flavour: str
    version: str
    gpu: str | None
    compute_capabilities: tuple[str, ...]

    def __str__(self) -> str:
        name = "TensorRT" if self.flavour == "tensorrt" else "TensorRT RTX"
        where = f"{self.gpu}, " if self.gpu else ""
        return f"{name} {self.version} for {where}compute capability {', '.join(self.compute_capabilities)}"


@dataclass(frozen=True)
class EngineSpec:
    """Everything that decides whether an engine fits; the fingerprint is its hash."""

    graphs: dict[str, str]
    """SHA-256 of each ONNX file."""
    target: BuildTarget
    precision: str
    profiles: dict[str, dict[str, dict[str, LengthRange]]]
    """Use, graph, letter."""

    @property
    def fingerprint(self) -> str:
        return sha256(json.dumps(encode(self), sort_keys=True).encode())[:32]


def library(flavour: str) -> Any:
    """The module of a flavour. Raises `ProviderError` where it is missing or too old."""
    try:
        trt = import_native(FLAVOURS[flavour])
    except (ImportError, OSError, RuntimeError) as error:  # the wheels load their libraries while they are imported
        raise ProviderError(f"{FLAVOURS[flavour]} cannot be imported: {error}\nhint: {_install(flavour)}") from error
    found = tuple(int(part) for part in trt.__version__.split(".")[:2])
    if found < _OLDEST[flavour]:
        oldest = ".".join(map(str, _OLDEST[flavour]))
        raise ProviderError(
            f"{FLAVOURS[flavour]} is {trt.__version__}; {oldest} or later is needed, for strongly typed networks\n"
            f"hint: {_install(flavour)}"
        )
    return trt


def _install(flavour: str) -> str:
    index = "; its library comes from NVIDIA's own package index, see the README" if flavour == "tensorrt" else ""
    return install(_EXTRAS[flavour]) + index


def build_target(flavour: str) -> BuildTarget:
    """The target of a build on this machine. Without a GPU RTX builds for all GPUs; the full TensorRT needs one."""
    trt = library(flavour)
    try:
        gpu = find_gpu()
    except ProviderError:
        if flavour == "tensorrt":
            raise
        return _ahead_of_time(trt)
    return _targets(trt, flavour, gpu)[0]


def fitting_targets(flavour: str, gpu: Gpu) -> list[BuildTarget]:
    """Targets whose engines run on this machine, the closest first. Raises `ProviderError` if there are none."""
    return _targets(library(flavour), flavour, gpu)


def _targets(trt: Any, flavour: str, gpu: Gpu) -> list[BuildTarget]:
    own = BuildTarget(flavour, trt.__version__, gpu.name, (gpu.compute_capability,))
    if flavour == "tensorrt":
        return [own]
    general = _ahead_of_time(trt)
    known = compute_capabilities(trt)
    if gpu.compute_capability not in known:
        raise ProviderError(
            f"TensorRT RTX {trt.__version__} has no code for {gpu.name}, compute capability {gpu.compute_capability}; "
            f"it knows {', '.join(known)}\nhint: --flavour tensorrt, or provider='cuda'"
        )
    found = [BuildTarget(flavour, trt.__version__, None, (gpu.compute_capability,))]
    return [*found, *([general] if gpu.compute_capability in general.compute_capabilities else [])]


def _ahead_of_time(trt: Any) -> BuildTarget:
    capabilities = compute_capabilities(trt)
    chosen = tuple(name for name, member in capabilities.items() if member not in _NOT_AHEAD)
    return BuildTarget("rtx", trt.__version__, None, chosen)


def compute_capabilities(trt: Any) -> dict[str, str]:
    """RTX's names of compute capabilities, "8.9" to "SM89"."""
    members = [name for name in trt.ComputeCapability.__members__ if name.startswith("SM")]
    return {f"{name[2:-1]}.{name[-1]}": name for name in members}


def engine_spec(bundle: Bundle, target: BuildTarget, precision: str, uses: tuple[str, ...] = tuple(USES)) -> EngineSpec:
    """The engines that a voice needs on this target."""
    entries = bundle.manifest.entries(precision)
    profiles = {use: {graph: profile(bundle.manifest, graph, use) for graph in entries} for use in uses}
    return EngineSpec({graph: entry.sha256 for graph, entry in entries.items()}, target, precision, profiles)
