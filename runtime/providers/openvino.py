"""Provider `openvino`: Intel's engine on the processor, which computes in bf16 where the processor can.

In int8 the graphs that a voice has in 8 bits are computed by ONNX Runtime, which is a tenth to a quarter faster with
them, and the others by OpenVINO, in bf16 where the processor can and else in fp32.

Some operators of OpenVINO do not check indices, and read or write out of bounds. Constants of any size are computed at
load, slowly. ONNX Runtime checks indices and limits such constants, and computes the graphs that have either: the pitch
graph is one.
"""

import os
import sys
from math import prod
from typing import Any, NamedTuple

from numpy.typing import NDArray

from ..conversion.calls import Runnable
from ..conversion.cores import threads_within_quota
from ..conversion.processes import keep_in_forks
from ..conversion.shapes import LengthGrid, grid_of
from ..errors import BundleError, ComosvcError, ProviderError, import_native, install, pip_install
from ..voice.bundle import Bundle
from ..voice.manifest import GraphEntry
from .sessions import CpuGraph, check_signature, open_graph

PRECISIONS = ("fp32", "bf16", "int8")
_HINTS = {"fp32": "f32", "bf16": "bf16"}
_ALWAYS_FP32 = ("pitch",)
"""In bf16 its F0 is up to 33 cents off, and the phase of the source adds that up; it is a hundredth of the work."""
_UNCHECKED = frozenset({"GatherND", "ScatterElementsUpdate", "ScatterNDUpdate", "ScatterUpdate"})
"""Operators of OpenVINO, by its names, that do not check indices. `Pad` does not check negative lengths."""
_MOST_FOLDED = 1 << 22
"""Elements that OpenVINO may compute at load, which takes it about 20 ns each. Voices have some hundred at most."""
_DEVICE, _TELEMETRY = "CPU", "openvino_telemetry"
_ISA_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
_WITHOUT_BF16 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI")
"""Limits below the first instruction set with bf16; bf16 then takes 13 times as long, or ends the process."""


def _cache(bundle: Bundle) -> dict[str, str]:
    """The option for the cache of compiled graphs; empty without a writable folder."""
    try:
        folder = bundle.home / "openvino"
        folder.mkdir(parents=True, exist_ok=True)
    except (ComosvcError, OSError):
        return {}
    return {"CACHE_DIR": os.fspath(folder)} if os.access(folder, os.W_OK) else {}


def probe() -> None:
    """Raise `ProviderError` unless OpenVINO is installed and finds its CPU plugin."""
    _core()


def open_graphs(bundle: Bundle, precision: str, threads: int | None) -> dict[str, Runnable]:
    """Every graph of the bundle, ready to run. What compiling gave is kept below the bundle's home.

    Raises `ProviderError` for bf16 on a processor that would only imitate it.
    """
    global _opened_in
    core, _opened_in = _core(), os.getpid()
    if precision == "bf16":
        _require_bf16(core)
    options = {
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads_within_quota(threads) or 0,  # 0: as many as there are cores
        "ENABLE_CPU_PINNING": False,  # an app has other threads, and so may other apps
        # What it keeps for each length that it has seen grows without end; made anew it costs 3 % of a piece at most.
        "CPU_RUNTIME_CACHE_CAPACITY": 0,
        **_cache(bundle),
    }
    in_8_bits = bundle.manifest.variants.get("int8", {}) if precision == "int8" else {}
    others = _beside_int8(core) if precision == "int8" else precision
    graphs: dict[str, Runnable] = {}
    for name, entry in bundle.manifest.entries(precision).items():
        model = None if name in in_8_bits else _read(core, name, bundle.entry_bytes(name, entry))
        if model is None or _has_unchecked(model) or _folded(model) > _MOST_FOLDED:
            graphs[name] = open_graph(bundle, name, entry, threads)
        else:
            hint = {"INFERENCE_PRECISION_HINT": _HINTS["fp32" if name in _ALWAYS_FP32 else others]}
            graphs[name] = OpenVinoGraph(grid_of(bundle.manifest, name), entry, core, model, {**options, **hint})
    return graphs


def _read(core: Any, name: str, data: bytes) -> Any:
    try:
        return core.read_model(data)
    except Exception as error:  # OpenVINO's own exceptions share no base but this
        raise _not_loaded(name, error) from error


def _not_loaded(name: str, error: Exception) -> BundleError:
    return BundleError(f"the {name} graph cannot be loaded by OpenVINO: {error}")


def _has_unchecked(model: Any) -> bool:
    """True if OpenVINO might read or write out of bounds with this graph."""
    return any(
        op.get_type_name() in _UNCHECKED or (op.get_type_name() == "Pad" and not (_is_safe(op, 1) and _is_safe(op, 2)))
        for op in model.get_ops()
    )


def _folded(model: Any) -> int:
    """Elements that are computed at load: of tensors of known size that depend on no input, or on its size alone."""
    values, total = set[str](), 0  # names of operators that depend on the values of an input
    for op in model.get_ordered_ops():
        kind, sources = op.get_type_name(), {value.get_node().get_name() for value in op.input_values()}
        if kind == "Parameter" or (kind != "ShapeOf" and not values.isdisjoint(sources)):
            values.add(op.get_name())
        elif kind != "Constant":
            shapes = [output.get_partial_shape() for output in op.outputs()]
            total += sum(prod(shape.to_shape()) for shape in shapes if shape.is_static)
    return total


def _is_safe(pad: Any, port: int) -> bool:
    """True if the lengths at input `port` of a `Pad` are constant and none is negative."""
    source = pad.input_value(port).get_node()
    return source.get_type_name() == "Constant" and bool((source.get_data() >= 0).all())


class OpenVinoGraph(CpuGraph):
    """A graph in OpenVINO. Calls from several threads use an inference request each."""

    engine = "in OpenVINO"

    def __init__(self, grid: LengthGrid, entry: GraphEntry, core: Any, model: Any, options: dict[str, Any]) -> None:
        super().__init__(grid, entry)
        try:
            self._compiled = keep_in_forks(core.compile_model(model, _DEVICE, options))
        except Exception as error:
            raise _not_loaded(self.name, error) from error
        tensors = (_tensors(self._compiled.inputs, entry.inputs), _tensors(self._compiled.outputs, entry.outputs))
        check_signature(self.name, entry, *tensors)
        self._idle: list[Any] = []

    def infer(self, inputs: dict[str, NDArray]) -> tuple[NDArray, ...]:
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        found = request.infer(inputs, share_inputs=True)
        outputs = tuple(found[name] for name in self._outputs)
        self._idle.append(request)  # not after an error
        return outputs


class _Tensor(NamedTuple):
    """As ONNX Runtime describes one."""

    name: str
    shape: list[int | None]
    type: str


def _tensors(ports: list[Any], entry: tuple[tuple[str, str, tuple], ...]) -> list[_Tensor]:
    """Where a node that does nothing was removed, its tensor's name and the port's stand for the same."""
    wanted = {name for name, _, _ in entry}
    return [
        _Tensor(
            next(iter(wanted & port.names), port.any_name),
            [dim.get_length() if dim.is_static else None for dim in port.partial_shape],
            port.element_type.to_dtype().name,
        )
        for port in ports
    ]


_opened_in: int | None = None
"""Process in which OpenVINO started its threads."""


def _require_no_fork() -> None:
    """Raise `ProviderError` in a fork, where calls would wait forever for the threads of the parent process."""
    if _opened_in not in (None, os.getpid()):
        raise ProviderError(
            f"OpenVINO was used in process {_opened_in}, of which this one is a fork, and does not work in it\n"
            "hint: start processes with multiprocessing's 'spawn', or provider='cpu'"
        )


def _core() -> Any:
    _require_no_fork()
    try:
        core = _openvino().Core()
    except ImportError as error:
        raise ProviderError(f"OpenVINO is not installed ({error})\nhint: {install('openvino')}") from error
    if _DEVICE not in core.available_devices:
        raise ProviderError(
            f"OpenVINO finds {', '.join(core.available_devices) or 'no device'} here, not its CPU plugin\n"
            f'hint: {pip_install("--force-reinstall openvino")}, or provider="cpu"'
        )
    return core


def _openvino() -> Any:
    """The `openvino` module. Importing it tells Intel so, and keeps an id in the home folder, unless its reporting
    package cannot be found; then it does without.
    """
    if "openvino" in sys.modules or _TELEMETRY in sys.modules:
        return import_native("openvino")
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # how Python is told not to find it
    try:
        return import_native("openvino")
    finally:
        del sys.modules[_TELEMETRY]


def _beside_int8(core: Any) -> str:
    """What graphs that are not in 8 bits are computed in beside those that are."""
    try:
        _require_bf16(core)
    except ProviderError:
        return "fp32"
    return "bf16"


def _require_bf16(core: Any) -> None:
    if "BF16" not in core.get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES"):
        name = core.get_property(_DEVICE, "FULL_DEVICE_NAME")
        raise ProviderError(
            f"bf16 needs a processor with AVX512-BF16 or AMX; {name} has neither\nhint: precision='fp32'"
        )
    limit = isa_limit("bf16")  # not part of OpenVINO's answer
    if limit is not None:
        raise ProviderError(f"{limit} takes bf16 away from OpenVINO\nhint: precision='fp32', or unset the variable")


def isa_limit(precision: str) -> str | None:
    """The environment setting, NAME=VALUE, that stops oneDNN from using the processor's units for `precision`; or None.

    oneDNN multiplies matrices in OpenVINO and in torch. `precision`: "bf16" or "fp16".
    """
    without = _WITHOUT_BF16 if precision == "bf16" else (*_WITHOUT_BF16, "AVX512_CORE_BF16")
    found = ((name, os.environ.get(name, "")) for name in _ISA_LIMITS)
    return next((f"{name}={value}" for name, value in found if value.upper() in without), None)
