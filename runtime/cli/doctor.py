"""comosvc-doctor: what works on this machine, what does not, and why."""

import contextlib
import ctypes
import importlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, cast

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
from .exit import errors_in_words, new_app
from .info import folding, shown

_app = new_app()

_HELP = """Say what works here, what does not and why.

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


_WINDOWS = sys.platform == "win32"
_CUDA = {
    "CUDA": (
        ("cudart64_13.dll", "cudart64_12.dll") if _WINDOWS else ("libcudart.so.13", "libcudart.so.12"),
        _cuda_version,
    ),
    "cuDNN": (("cudnn64_9.dll",) if _WINDOWS else ("libcudnn.so.9",), _cudnn_version),
}
"""This system's shared libraries, the preferred name first, and what asks one for its version."""
_PACKAGES = (
    ("TensorRT", ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"), "tensorrt", ("tensorrt",)),
    ("TensorRT RTX", ("tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12"), "tensorrt_rtx", ("tensorrt-rtx",)),
    ("cuda-bindings", ("cuda-bindings",), "cuda.bindings.driver", ("cuda", "tensorrt")),
    ("OpenVINO", ("openvino",), "openvino", ("openvino",)),
)
"""What it is called, its distributions, the first that is there told, its module, the extras that bring it."""


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
    _app()


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
    """The findings, with what is wrong with the GPU only in the row that is about it."""
    fault = next((found.detail for found in findings if found.what == "GPU" and not found.works), None)
    for found in findings:
        if fault is None or found.what == "GPU":
            yield found
        else:
            yield replace(found, detail=found.detail.replace(fault, "needs a GPU with its driver (GPU, above)"))


def check_provider(provider: str, model: str) -> Finding:
    """Whether `provider` runs here: a voice is loaded on it and converts a second of song."""
    what = f"provider {provider}"
    try:
        choose_provider(provider)
        if model == "demo" and model not in shipped_voices():
            return Finding(what, False, "no voice was shipped with this installation\nhint: -m VOICE.comosvc")
        with Converter(model, provider=cast(Provider, provider)) as converter:
            test = converter.self_test()
    except NoEnginesError as error:
        return Finding(what, True, f"works, but not with this voice yet: {error}")
    except Exception as error:  # a library's own too: whatever keeps a provider from running is a finding
        known = isinstance(error, ComosvcError)
        return Finding(what, False, str(error) if known else f"{type(error).__name__}: {error}")
    seen = f"{test.seconds:.1f} s of song at RTF {test.rtf:.3f}, pitch {test.f0_error_cents:.1f} cents off"
    if test.probe_errors:
        seen += f", graphs within {max(test.probe_errors.values()):.1e} of torch"
    return Finding(what, True, f"runs on {test.provider} in {test.precision}: {seen}", test.provider)


def environment() -> list[Finding]:
    """Versions of what conversion rests on."""
    findings = [
        Finding("comosvc", None, f"{__version__}, Python {platform.python_version()}, {platform.platform()}"),
        Finding("processor", None, f"{_cores()}, {platform.machine()}"),
        _cache(),
    ]
    return [*findings, _onnx_runtime()]


def _cores() -> str:
    count, usable = os.cpu_count(), usable_cores()
    return f"{count} logical cores" + (f", {usable} of them for this process" if usable != count else "")


def _cache() -> Finding:
    try:
        folder = comosvc_home()
    except ComosvcError as error:
        return Finding("cache", None, str(error))
    return Finding("cache", None, f"{folder} ({'there' if folder.is_dir() else 'not made yet'})")


def accelerators() -> list[Finding]:
    """The GPU with its driver and libraries, and other engines. Missing ones are no fault: not everybody needs them."""
    findings = []
    try:
        gpu = find_gpu()
        findings.append(Finding("GPU", True, str(gpu)))
    except ComosvcError as error:
        gpu = None
        findings.append(Finding("GPU", None, str(error)))
    findings.append(_driver(gpu))
    findings += [_cuda_library(name, needed=gpu is not None) for name in _CUDA]
    findings += [_package(*package) for package in _PACKAGES]
    return [*findings, _source_compiler(gpu)]


def no_gpu() -> list[Finding] | None:
    """Findings in place of `accelerators` on a machine without NVIDIA driver; None where a driver is installed."""
    try:
        find_gpu()
    except ComosvcError as error:
        if isinstance(error.__cause__, OSError):
            libraries = [*_CUDA, *(what for what, *_ in _PACKAGES if what != "OpenVINO"), "NVRTC"]
            more = f"so provider cuda and provider tensorrt do not run; --provider cuda shows {', '.join(libraries)}"
            openvino = [_package(*package) for package in _PACKAGES if package[0] == "OpenVINO"]
            return [Finding("GPU", None, f"{error}\n{more}"), *openvino]
    return None


def _driver(gpu: Gpu | None) -> Finding:
    try:
        return Finding("driver", True, driver_version())
    except ComosvcError as error:
        missing = gpu is None and isinstance(error.__cause__, OSError)
        return Finding("driver", None, f"version unknown: {'none is installed' if missing else error}")


def _source_compiler(gpu: Gpu | None) -> Finding:
    """Whether the GPU can make source and noise where they are needed: its kernels are really compiled."""
    try:
        compile_cuda(SOURCE.read_bytes(), SOURCE.name, gpu.compute_capability if gpu else "8.0")
    except ComosvcError as error:
        host = "on GPU providers, source and noise are made on the host and sent"
        return Finding("NVRTC", False if gpu else None, f"{host}: {error}")
    return Finding("NVRTC", True, "compiles the kernels that make source and noise on a GPU")


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


def _cuda_library(what: str, needed: bool) -> Finding:
    """The first of its libraries that the system loads, or pip's, with its version."""
    names, version = _CUDA[what]
    packaged = [path for root in map(Path, sys.path) for name in names for path in _packaged(root, name)]
    broken = []
    for library in [*names, *map(str, packaged)]:
        try:
            return Finding(what, True, f"{version(ctypes.CDLL(library))}, {library}")
        except OSError as error:
            broken += [f"; {error}"] if Path(library).is_absolute() else []
        except AttributeError as error:
            broken.append(f"; {library} is another library: {error}")
    return Finding(what, False if needed else None, f"not found: {', '.join(names)}{''.join(broken)}")


def _packaged(root: Path, name: str) -> list[Path]:
    """Where pip's nvidia packages put a library; ONNX Runtime finds it there."""
    return [*root.glob(f"nvidia/*/lib/{name}"), *root.glob(f"nvidia/*/bin/{name}")]


def _package(what: str, distributions: tuple[str, ...], module: str, extras: tuple[str, ...]) -> Finding:
    """A Python package that is optional: its version if it is there, and whether it can be imported at all."""
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
    soundfile = importlib.import_module("soundfile")
    formats = {f".{name.lower()}" for name in soundfile.available_formats()}
    known = [ending for ending in READABLE if ending in formats or ending in (".aif", ".opus")]
    findings = [Finding("audio files", True, f"libsndfile {soundfile.__libsndfile_version__}: {' '.join(known)}")]
    try:
        version = importlib.metadata.version("matplotlib")
        findings.append(Finding("--plot", True, f"matplotlib {version}"))
    except importlib.metadata.PackageNotFoundError:
        findings.append(Finding("--plot", None, f"matplotlib is not installed: {install('plot')}"))
    return findings
