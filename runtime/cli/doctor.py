"""comosvc-doctor: providers and libraries that work on this machine, and reasons for the others."""

import contextlib
import ctypes
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, cast

import soundfile
import typer
from rich.console import Console
from rich.table import Table

from .. import __version__
from ..audio.sources import READABLE
from ..conversion.cores import usable_cores
from ..converter import Converter
from ..errors import ComosvcError, NoEnginesError, install, is_frozen
from ..providers import ON_GPU, PROVIDERS, Provider, choose_provider, require_known
from ..providers.gpu import Gpu, compile_cuda, driver_version, find_gpu
from ..providers.gpu_source import SOURCE
from ..providers.sessions import installed_wheels, onnx_runtime
from ..voice.bundle import comosvc_home, open_bundle, shipped_voices
from .exit import errors_in_words, new_app, run
from .info import folding, shown

_app = new_app()

_HELP = """Check the providers and libraries of this machine.

\bExamples:
  comosvc-doctor                    everything
  comosvc-doctor --provider cuda    exit code 1 if that provider would not run
  comosvc-doctor -m my.comosvc      test this voice instead of the shipped one
"""


def _cuda_version(library: Any) -> str:
    version = ctypes.c_int()
    if status := library.cudaRuntimeGetVersion(ctypes.byref(version)):
        return f"of unknown version (cudaRuntimeGetVersion gave {status})"
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def _cudnn_version(library: Any) -> str:
    library.cudnnGetVersion.restype = ctypes.c_size_t
    version = library.cudnnGetVersion()
    return f"{version // 10000}.{version % 10000 // 100}.{version % 100}"


_CUDART = ("cudart64_13.dll", "cudart64_12.dll"), ("libcudart.so.13", "libcudart.so.12")
_CUDNN = ("cudnn64_9.dll",), ("libcudnn.so.9",)
_CUDA = {
    "CUDA": (_CUDART[sys.platform != "win32"], _cuda_version),
    "cuDNN": (_CUDNN[sys.platform != "win32"], _cudnn_version),
}
"""This system's shared libraries, the preferred name first, and a function that asks one for its version."""
_PACKAGES = (
    ("TensorRT", ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"), "tensorrt", ("tensorrt",)),
    ("TensorRT RTX", ("tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12"), "tensorrt_rtx", ("tensorrt-rtx",)),
    ("cuda-bindings", ("cuda-bindings",), "cuda.bindings.driver", ("cuda", "tensorrt")),
    ("OpenVINO", ("openvino",), "openvino", ("openvino",)),
)
"""Name, distributions (the first that is installed is shown), module, and the extras that bring it."""


@dataclass(frozen=True)
class Finding:
    """One line of the report. `works` None: informational. `runs_on`: the provider of the tried conversion."""

    what: str
    works: bool | None
    detail: str
    runs_on: str | None = None

    @property
    def beside_what(self) -> str:
        """`detail` without the provider's name, which `what` gives already."""
        kind, _, name = self.what.partition(" ")
        return self.detail.removeprefix(f"{kind} {name!r} ")


def main() -> None:
    """Entry point of `comosvc-doctor`."""
    run(_app, "comosvc-doctor", "cpu")


@_app.command(help=_HELP)
def _doctor(
    provider: Annotated[str, typer.Option("--provider", help=f"One of {', '.join(PROVIDERS)}.")] = "auto",
    model: Annotated[str, typer.Option("--model", "-m", help="The voice to test with.")] = "demo",
) -> None:
    with errors_in_words(Console(stderr=True)):
        require_known(provider)
        if model != "demo" or model in shipped_voices():
            open_bundle(model)
        asked = check_provider(provider, model)
        without_gpu = None if provider in ON_GPU else no_gpu()
        missing = () if _version("openvino") else ("openvino",)  # the package's row says so
        skipped = {"auto", provider, asked.runs_on, *missing, *(ON_GPU if without_gpu else ())}
        others = [check_provider(name, model) for name in PROVIDERS if name not in skipped]
        hardware = accelerators() if without_gpu is None else without_gpu
        table = Table("", "what", "detail", show_header=False)
        marks = {True: "[green]ok[/green]", False: "[red]no[/red]", None: ""}
        for finding in said_once([*environment(), *hardware, *extras(), asked, *others]):
            table.add_row(marks[finding.works], finding.what, shown(finding.beside_what))
        works = f"works here: {asked.detail}" if asked.works else f"does not work here with {asked.what}"
        Console().print(f"comosvc {works.splitlines()[0]}", style="bold", markup=False, highlight=False)
        Console().print(folding(table))
        if not asked.works:
            raise ComosvcError(asked.detail.partition("\nhint:")[0])  # which stands in the table


def said_once(findings: list[Finding]) -> Iterator[Finding]:
    """The findings, with the fault of the GPU in its own row only."""
    fault = next((found.detail for found in findings if found.what == "GPU" and not found.works), None)
    for found in findings:
        if fault is None or found.what == "GPU":
            yield found
        else:
            yield replace(found, detail=found.detail.replace(fault, "needs a GPU with its driver (GPU, above)"))


def check_provider(provider: str, model: str) -> Finding:
    """Whether `provider` runs here: loads a voice on it and converts a second of song."""
    what = f"provider {provider}"
    try:
        choose_provider(provider)
        if model == "demo" and model not in shipped_voices():
            return Finding(what, False, "no voice was shipped with this installation\nhint: -m VOICE.comosvc")
        with Converter(model, provider=cast(Provider, provider)) as converter:
            test = converter.self_test()
    except NoEnginesError as error:
        return Finding(what, True, f"works, but not with this voice yet: {error}")
    except ComosvcError as error:
        return Finding(what, False, str(error))
    except Exception as error:  # of a library
        return Finding(what, False, f"{type(error).__name__}: {error}")
    seen = f"{test.seconds:.1f} s of song at RTF {test.rtf:.3f}, pitch {test.f0_error_cents:.1f} cents off"
    if test.probe_errors:
        seen += f", graphs within {max(test.probe_errors.values()):.1e} of torch"
    return Finding(what, True, f"runs on {test.provider} in {test.precision}: {seen}", test.provider)


def environment() -> list[Finding]:
    """Versions of the package, the system and ONNX Runtime, and the cache."""
    count, usable = os.cpu_count(), usable_cores()
    cores = f"{count} logical cores" + (f", {usable} of them for this process" if usable != count else "")
    try:
        folder = comosvc_home()
        cache = f"{folder} ({'there' if folder.is_dir() else 'not made yet'})"
    except ComosvcError as error:
        cache = str(error)
    return [
        Finding("comosvc", None, f"{__version__}, Python {platform.python_version()}, {platform.platform()}"),
        Finding("processor", None, f"{cores}, {platform.machine()}"),
        Finding("cache", None, cache),
        _onnx_runtime(),
    ]


def _onnx_runtime() -> Finding:
    try:
        ort = onnx_runtime()
    except ComosvcError as error:
        return Finding("onnxruntime", False, str(error))
    compiled = ", ".join(name.removesuffix("ExecutionProvider") for name in ort.get_available_providers())
    wheels = installed_wheels()
    if len(wheels) > 1:
        clash = "are all installed and overwrite each other\nhint: uninstall all of them, then install one"
        return Finding("onnxruntime", False, f"{', '.join(wheels)} {clash}")
    return Finding("onnxruntime", True, f"{' '.join(wheels) or ort.__version__}, compiled for {compiled}")


def accelerators() -> list[Finding]:
    """The GPU with its driver and libraries, and other engines. Missing ones are optional, and so no fault."""
    try:
        gpu = find_gpu()
        found = Finding("GPU", True, str(gpu))
    except ComosvcError as error:
        gpu, found = None, Finding("GPU", None, str(error))
    libraries = [_cuda_library(name, needed=gpu is not None) for name in _CUDA]
    return [found, _driver(gpu), *libraries, *(_package(*package) for package in _PACKAGES), _source_compiler(gpu)]


def no_gpu() -> list[Finding] | None:
    """Findings in place of `accelerators` on a machine without NVIDIA driver; None where a driver is installed."""
    try:
        find_gpu()
    except ComosvcError as error:
        if isinstance(error.__cause__, OSError):
            *others, openvino = _PACKAGES
            libraries = ", ".join([*_CUDA, *(what for what, *_ in others), "NVRTC"])
            more = f"so provider cuda and provider tensorrt do not run; --provider cuda shows {libraries}"
            return [Finding("GPU", None, f"{error}\n{more}"), _package(*openvino)]
    return None


def _driver(gpu: Gpu | None) -> Finding:
    try:
        return Finding("driver", True, driver_version())
    except ComosvcError as error:
        missing = gpu is None and isinstance(error.__cause__, OSError)
        return Finding("driver", None, f"version unknown: {'none is installed' if missing else error}")


def _source_compiler(gpu: Gpu | None) -> Finding:
    """Whether the kernels that make source and noise on the GPU compile."""
    try:
        compile_cuda(SOURCE.read_bytes(), SOURCE.name, gpu.compute_capability if gpu else "8.0")
    except ComosvcError as error:
        host = "on GPU providers, source and noise are made on the host and sent"
        return Finding("NVRTC", False if gpu else None, f"{host}: {error}")
    return Finding("NVRTC", True, "compiles the kernels that make source and noise on a GPU")


def _cuda_library(what: str, needed: bool) -> Finding:
    """The first of its libraries that the system loads, or of pip's nvidia packages, with its version."""
    names, version = _CUDA[what]
    packaged = [str(path) for root in map(Path, sys.path) for name in names for path in root.glob(f"nvidia/*/*/{name}")]
    broken = []
    for library in [*names, *packaged]:
        try:
            return Finding(what, True, f"{version(ctypes.CDLL(library))}, {library}")
        except OSError as error:
            broken += [f"; {error}"] if library in packaged else []
        except AttributeError as error:
            broken.append(f"; {library} is another library: {error}")
    return Finding(what, False if needed else None, f"not found: {', '.join(names)}{''.join(broken)}")


def _package(what: str, distributions: tuple[str, ...], module: str, extras: tuple[str, ...]) -> Finding:
    """An optional Python package: its version, and whether it can be imported."""
    version = next(filter(None, map(_version, distributions)), None)
    if version is None:
        return Finding(what, None, f"not installed: {' or '.join(map(install, extras))}")
    if is_frozen():  # there is no Python to start
        return Finding(what, True, version)
    # In a process of its own, since loading a broken library can end the process. Without OpenVINO's usage reports,
    # which leave an id in the home folder.
    code = f"import sys; sys.modules['openvino_telemetry'] = None; import {module}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:] or [f"the process ended with {done.returncode}"]
        return Finding(what, False, f"{version} cannot be imported: {said[0]}")
    return Finding(what, True, version)


def _version(distribution: str) -> str | None:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return f"{distribution} {importlib.metadata.version(distribution)}"
    return None


def extras() -> list[Finding]:
    """Optional parts and file formats."""
    formats = {f".{name.lower()}" for name in soundfile.available_formats()}
    known = [ending for ending in READABLE if ending in formats or ending in (".aif", ".opus")]
    version = _version("matplotlib")
    return [
        Finding("audio files", True, f"libsndfile {soundfile.__libsndfile_version__}: {' '.join(known)}"),
        Finding("--plot", True if version else None, version or f"matplotlib is not installed: {install('plot')}"),
    ]
