"""Run by PyInstaller for every application that imports `cuda.core`."""

import importlib.util
from pathlib import Path

from PyInstaller.utils.hooks import collect_submodules, copy_metadata

# Compiled code imports these, which PyInstaller does not see.
hiddenimports = [*collect_submodules("cuda.bindings"), *collect_submodules("cuda.pathfinder"), "rlcompleter"]
datas = copy_metadata("cuda-bindings")  # `cuda.core` reads its version
_CORE = importlib.util.find_spec("cuda.core")
if _CORE is not None and _CORE.origin is not None:
    # Its modules are those in the folder of a CUDA version, where PyInstaller does not find them.
    datas.append((str(Path(_CORE.origin).parent / "cu13"), "cuda/core/cu13"))
