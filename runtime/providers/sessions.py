"""ONNX Runtime: the installed wheels, sessions, and provider `cpu`. Every session of all packages is opened here."""

import contextlib
import ctypes
import importlib.metadata
import io
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from ..conversion.cores import threads_within_quota
from ..conversion.processes import keep_in_forks
from ..conversion.shapes import LengthGrid, check_outputs, grid_of
from ..errors import BundleError, ComosvcError, ProviderError, import_native, install, is_frozen
from ..voice.bundle import Bundle
from ..voice.manifest import GraphEntry

CPU = "CPUExecutionProvider"
_OLDEST = (1, 28)
"""First safe version. Older ones read any file that a graph names as its weights, and crash on some graphs."""
_FOLDED_BYTES = 1 << 20
"""Largest constant that is computed when a graph is opened; larger ones are computed in each run.

The pitch graph's are up to 525 kB. With 64 MiB a hostile graph of `graph_file`'s size takes a minute and 19 GB."""
_TYPES = {"tensor(float)": "float32", "tensor(int32)": "int32"}


def onnx_runtime() -> Any:
    """The `onnxruntime` module, imported when first needed. Raises `ProviderError` if no engine is installed."""
    try:
        # Its official builds report use to Microsoft and keep a device id in the home folder unless this is set.
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        ort = import_native("onnxruntime")
    except ImportError as error:
        raise ProviderError(
            f"no inference engine is installed ({error})\n"
            f"hint: {install('cpu')}, or with [cuda] for an NVIDIA GPU; one of the two, not both"
        ) from error
    found = tuple(int(part) for part in re.findall(r"\d+", ort.__version__)[:2])
    if found < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        raise ProviderError(
            f"onnxruntime {ort.__version__} is too old: {oldest} is the first that is safe with graphs from anywhere\n"
            "hint: pip install --upgrade onnxruntime, or onnxruntime-gpu if that is what is installed"
        )
    return ort


def installed_wheels() -> list[str]:
    """Name and version of each installed distribution of `onnxruntime`; they overwrite each other's files."""
    names = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml")
    found = []
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name} {importlib.metadata.version(name)}")
    return found


def wheels_in_words() -> str:
    """The end of an error about an ONNX Runtime without CUDA: the installed wheels, and what to do."""
    found = installed_wheels()
    if len(found) > 1:
        names = ", ".join(found)
        return f": {names} are installed, and overwrite each other\nhint: uninstall all of them, then install one"
    first = "" if is_frozen() else "pip uninstall onnxruntime, then "
    return (
        ": the wheel for the processor is installed, onnxruntime-gpu is missing\n"
        f"hint: {first}{install('cuda')}; only one of them, they overwrite each other"
    )


def libraries_in_words(ort: Any) -> str:
    """The CUDA and cuDNN that this ONNX Runtime was built for, and the libraries of both that cannot be loaded."""
    major = ort.cuda_version.partition(".")[0] or "13"
    windows = f"cudart64_{major}.dll", f"cublasLt64_{major}.dll", "cudnn64_9.dll"
    linux = f"libcudart.so.{major}", f"libcublasLt.so.{major}", "libcudnn.so.9"
    missing = []
    for name in windows if sys.platform == "win32" else linux:
        try:
            ctypes.CDLL(name)
        except OSError:
            missing.append(name)
    needs = f"it is built for CUDA {ort.cuda_version or 13} and cuDNN 9"
    return f"{needs}, and {', '.join(missing)} cannot be loaded" if missing else f"{needs}, and finds them"


def preload(ort: Any) -> None:
    """Load CUDA and cuDNN from the packages that pip installs, without the messages that ONNX Runtime prints."""
    with contextlib.redirect_stdout(io.StringIO()):
        ort.preload_dlls()


# --- Sessions


def session_options(ort: Any, threads: int | None) -> Any:
    """Options of every session. `threads`: of one run; None for as many as there are cores."""
    options = ort.SessionOptions()
    # Errors are raised as well, and the log would print names of the graph with escape sequences.
    options.log_severity_level = 4
    options.inter_op_num_threads = 1
    options.add_session_config_entry("optimization.constant_folding_max_output_size_in_bytes", str(_FOLDED_BYTES))
    # Threads that wait by spinning take the cores from other work: twice as slow on two busy cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    threads = threads_within_quota(threads)
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


def new_session(ort: Any, model: bytes, options: Any, providers: Sequence[Any]) -> Any:
    """A session. Raises ONNX Runtime's own exceptions, which share no base but `Exception`.

    Without its fallback, which prints the error, with names of the graph, and opens the graph on the CPU.
    """
    return keep_in_forks(ort.InferenceSession(model, options, providers=providers, enable_fallback=0))


def open_session(model: bytes, what: str, threads: int | None, *, at_once: bool = False) -> Any:
    """A session on the CPU; `at_once` for runs in several threads at the same time.

    Raises `BundleError`, or `ProviderError` where ONNX Runtime would run it elsewhere.
    """
    ort = onnx_runtime()
    options = session_options(ort, threads)
    # A pattern is memory for the whole of a run in one piece, which seldom fits between that of runs at the same time:
    # on eight cores half as much again for a long file. Without it they take no longer.
    options.enable_mem_pattern = not at_once
    try:
        session = new_session(ort, model, options, [CPU])
    except Exception as error:
        raise BundleError(f"{what} cannot be loaded: {error}") from error
    if session.get_providers() != [CPU]:
        raise ProviderError(f"{what} was asked to run on {CPU} but runs on {session.get_providers()}")
    return session


def check_signature(graph: str, entry: GraphEntry, inputs: list[Any], outputs: list[Any]) -> None:
    """Raise `BundleError` unless tensors have the names, types, ranks and fixed sizes that the manifest says."""
    for kind, tensors, wanted in (("inputs", inputs, entry.inputs), ("outputs", outputs, entry.outputs)):
        found = {tensor.name: tensor for tensor in tensors}
        if set(found) != (names := {name for name, _, _ in wanted}):
            raise BundleError(f"the {graph} graph has {kind} {sorted(found)}, the manifest says {sorted(names)}")
        for name, dtype, dims in wanted:
            shape, dtype_found = list(found[name].shape), _TYPES.get(found[name].type, found[name].type)
            differs = any(isinstance(n, int) and n and n != dim for n, dim in zip(shape, dims, strict=False))
            if dtype_found != dtype or len(shape) != len(dims) or differs:
                raise BundleError(
                    f"the {graph} graph's {name} is {dtype_found} {shape}, the manifest says {dtype} {list(dims)}"
                )


# --- Provider `cpu`

PRECISIONS = ("fp32", "int8")


def probe() -> None:
    """Raise `ProviderError` unless ONNX Runtime is installed: it runs everywhere."""
    onnx_runtime()


class CpuGraph:
    """One graph of a bundle, ready to run on the processor. May be called from several threads.

    `infer` takes arrays by name and returns outputs in the order of the manifest.
    """

    engine: str

    def __init__(self, grid: LengthGrid, entry: GraphEntry) -> None:
        self.name, self._grid, self._entry = grid.graph, grid, entry
        self.inputs = tuple(name for name, _, _ in entry.inputs)
        self._outputs = [name for name, _, _ in entry.outputs]

    def infer(self, inputs: dict[str, NDArray]) -> tuple[NDArray, ...]:
        raise NotImplementedError

    def run(self, inputs: dict[str, NDArray]) -> tuple[NDArray, ...]:
        """Outputs in the order of the manifest. `inputs` may hold more than the graph takes.

        Raises `BundleError` for a graph that fails or gives outputs that break the contract, and `ProviderError` where
        memory is short.
        """
        taken = {name: inputs[name] for name in self.inputs}
        shapes = {name: array.shape for name, array in taken.items()}
        try:
            outputs = self.infer(taken)
        except Exception as error:  # the engines' own exceptions share no base but this
            raise _failure(f"the {self.name} graph failed {self.engine}", shapes, error) from error
        check_outputs(self._grid, self._entry, shapes, outputs)
        return outputs


class OnnxGraph(CpuGraph):
    """A graph in ONNX Runtime; `at_once` for calls from several threads at the same time."""

    engine = "on the CPU"

    def __init__(
        self, grid: LengthGrid, entry: GraphEntry, model: bytes, threads: int | None, *, at_once: bool = False
    ) -> None:
        super().__init__(grid, entry)
        self._session = open_session(model, f"the {self.name} graph", threads, at_once=at_once)
        check_signature(self.name, entry, self._session.get_inputs(), self._session.get_outputs())

    def infer(self, inputs: dict[str, NDArray]) -> tuple[NDArray, ...]:
        return tuple(self._session.run(self._outputs, inputs))


def open_graphs(bundle: Bundle, precision: str, threads: int | None) -> dict[str, OnnxGraph]:
    """Every graph of the bundle, ready to run."""
    entries = bundle.manifest.entries(precision)
    return {name: open_graph(bundle, name, entry, threads) for name, entry in entries.items()}


def open_graph(
    bundle: Bundle, name: str, entry: GraphEntry, threads: int | None, *, at_once: bool = False
) -> OnnxGraph:
    """One graph of the bundle."""
    return OnnxGraph(grid_of(bundle.manifest, name), entry, bundle.entry_bytes(name, entry), threads, at_once=at_once)


def _failure(what: str, shapes: Mapping[str, tuple[int, ...]], error: Exception) -> ComosvcError:
    """The bundle's fault, for the inputs are as its manifest says, or that of too little memory."""
    message = f"{what} with {', '.join(f'{name} {shape}' for name, shape in shapes.items())}: {error}"
    if re.search(r"(?i)alloc|memory", str(error)):
        return ProviderError(f"{message}\nhint: it needs more memory than there is")
    return BundleError(f"{message}\nhint: comosvc-export verify says whether the bundle is broken")
