"""Run by PyInstaller for every application that imports `comosvc`."""

import importlib.util

from PyInstaller.utils.hooks import collect_data_files, collect_submodules

_BY_NAME = ("onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "cuda.bindings", "sounddevice")
"""Packages imported by name at run time. PyInstaller's `--exclude-module` leaves unwanted ones out."""


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # not even the package that it is in
        return False


_engines = [name for name in _BY_NAME if _installed(name)]
datas = collect_data_files("comosvc.runtime")  # the shipped voice, the pitch graph, kernels
hiddenimports = [*collect_submodules("comosvc.runtime.providers"), *_engines]
hiddenimports += ["cuda.bindings.driver", "cuda.bindings.nvrtc"] if "cuda.bindings" in _engines else []
