"""ONNX Runtime: the installed distribution, and sessions that run on the requested device. Telemetry is off."""

import contextlib
import ctypes
import importlib.metadata
import io
import os
import re
import sys
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from ..conversion.cores import threads_within_quota
from ..conversion.processes import keep_in_forks
from ..conversion.shapes import LengthGrid, check_outputs
from ..errors import BundleError, ComosvcError, ProviderError, import_native, install, is_frozen
from ..voice.manifest import GraphEntry


def installed_wheels() -> list[str]:
    """Name and version of each installed distribution of `onnxruntime`; they overwrite each other's files."""
    names = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml")
    found = []
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name} {importlib.metadata.version(name)}")
    return found


def wheels_in_words() -> str:
    """The end of an error about an ONNX Runtime without CUDA: the wheels that are there, and what to do."""
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
    """Load CUDA and cuDNN from the packages that pip installs. Its printed messages are dropped: `libraries_in_words`
    gives the missing libraries.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        ort.preload_dlls()


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
        # Its official builds report use to Microsoft and keep a device id in the home folder unless told not to.
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


class OnnxGraph:
    """One graph of a bundle, ready to run. May be called from several threads; `at_once` if that is what it is for."""

    def __init__(
        self, grid: LengthGrid, entry: GraphEntry, model: bytes, threads: int | None, *, at_once: bool = False
    ) -> None:
        self.name = name = grid.graph
        self._grid, self._entry = grid, entry
        self.inputs = tuple(tensor[0] for tensor in entry.inputs)
        self._outputs = [tensor[0] for tensor in entry.outputs]
        self._session = open_session(model, f"the {name} graph", threads, at_once=at_once)
        check_signature(name, "inputs", self._session.get_inputs(), entry.inputs)
        check_signature(name, "outputs", self._session.get_outputs(), entry.outputs)

    def run(self, inputs: dict[str, NDArray]) -> tuple[NDArray, ...]:
        """Outputs in the order of the manifest. `inputs` may hold more than the graph takes.

        Raises `BundleError` for a graph that fails or gives what the contract does not say, and `ProviderError` where
        memory is short.
        """
        taken = {name: inputs[name] for name in self.inputs}
        try:
            outputs = tuple(self._session.run(self._outputs, taken))
        except Exception as error:  # ONNX Runtime's own exceptions share no base but this
            raise failure(f"the {self.name} graph failed on the CPU", taken, error) from error
        check_outputs(self._grid, self._entry, {name: array.shape for name, array in taken.items()}, outputs)
        return outputs


def open_session(model: bytes, what: str, threads: int | None, *, at_once: bool = False) -> Any:
    """An ONNX Runtime session that is certain to run where it says. Raises `BundleError` or `ProviderError`."""
    ort = onnx_runtime()
    options = session_options(ort, threads)
    # A pattern is memory for the whole of a run in one piece, which runs at once seldom fit into what others left: on
    # eight cores half as much again for a long file. Without it they take no longer.
    options.enable_mem_pattern = not at_once
    try:
        # Falling back prints the error, with names of the graph, and tries again.
        session = keep_in_forks(ort.InferenceSession(model, options, providers=[CPU], enable_fallback=0))
    except Exception as error:
        raise BundleError(f"{what} cannot be loaded: {error}") from error
    if session.get_providers() != [CPU]:
        raise ProviderError(f"{what} was asked to run on {CPU} but runs on {session.get_providers()}")
    return session


def failure(what: str, inputs: Mapping[str, NDArray], error: Exception) -> ComosvcError:
    """Of a graph that an engine could not compute: the bundle's fault, for the inputs are what its manifest says, or
    that of too little memory.
    """
    message = f"{what} with {', '.join(f'{name} {array.shape}' for name, array in inputs.items())}: {error}"
    if re.search(r"(?i)alloc|memory", str(error)):
        return ProviderError(f"{message}\nhint: it needs more memory than there is")
    return BundleError(f"{message}\nhint: comosvc-export verify says whether the bundle is broken")


def session_options(ort: Any, threads: int | None) -> Any:
    """What sessions have in common."""
    options = ort.SessionOptions()
    # Errors are raised as well, and the log would print names of the graph with escape sequences.
    options.log_severity_level = 4
    options.inter_op_num_threads = 1
    options.add_session_config_entry("optimization.constant_folding_max_output_size_in_bytes", str(_FOLDED_BYTES))
    # Threads that wait by spinning take the cores from whoever else is at work: twice as slow on two busy cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    threads = threads_within_quota(threads)
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


def check_signature(graph: str, kind: str, found: list[Any], entry: tuple[tuple[str, str, tuple], ...]) -> None:
    """The file must have the tensors that the manifest says: same names, types, ranks and fixed sizes."""
    tensors = {tensor.name: tensor for tensor in found}
    wanted = {name: (dtype, dims) for name, dtype, dims in entry}
    if set(tensors) != set(wanted):
        raise BundleError(f"the {graph} graph has {kind} {sorted(tensors)}, the manifest says {sorted(wanted)}")
    for name, (dtype, dims) in wanted.items():
        shape, kind_found = tensors[name].shape, _TYPES.get(tensors[name].type, tensors[name].type)
        sizes = [size if isinstance(size, int) else None for size in shape]
        fixed = [size if isinstance(size, int) else None for size in dims]
        if (
            kind_found != dtype
            or len(sizes) != len(fixed)
            or any(a != b for a, b in zip(sizes, fixed, strict=True) if a)
        ):
            raise BundleError(
                f"the {graph} graph's {name} is {kind_found} {list(shape)}, the manifest says {dtype} {list(dims)}"
            )
