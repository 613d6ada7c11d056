"""The installed ONNX Runtime: its distributions, and the CUDA libraries that it needs."""

import contextlib
import ctypes
import importlib.metadata
import io
import sys
from typing import Any

from ..extras import install, is_frozen


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
