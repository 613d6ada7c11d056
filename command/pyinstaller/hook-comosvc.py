"""Run by PyInstaller for every application that imports `comosvc`."""

import importlib.util

from PyInstaller.utils.hooks import collect_data_files, collect_submodules

_BY_NAME = {
    "onnxruntime": ["onnxruntime"],
    "openvino": ["openvino"],
    "tensorrt": ["tensorrt"],
    "tensorrt_rtx": ["tensorrt_rtx"],
    "cuda.core": ["cuda.core"],
    "sounddevice": ["sounddevice"],
    "av": ["av"],
    "pyworld": ["pyworld"],
    "matplotlib": [
        "matplotlib.figure",
        "matplotlib.font_manager",
        *(f"matplotlib.backends.backend_{kind}" for kind in ("agg", "pdf", "svg")),
    ],
}
"""Packages imported by name at run time, with their modules. PyInstaller's `--exclude-module` leaves one out."""


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # not even the package that it is in
        return False


datas = collect_data_files("comosvc.runtime")  # the shipped voice, the pitch graph, kernels
hiddenimports = collect_submodules("comosvc.runtime")  # providers and commands
hiddenimports += [module for name, modules in _BY_NAME.items() if _installed(name) for module in modules]
