"""CUDA C to machine code of one GPU, with CUDA's own compiler. Needs no GPU."""

import functools
import importlib
from typing import Any

from .errors import ProviderError
from .extras import pip_install

_HINT = f"hint: {pip_install('cuda-bindings nvidia-cuda-nvrtc')}, or the CUDA toolkit"


@functools.cache
def compile_cuda(source: bytes, name: str, compute_capability: str) -> bytes:
    """A cubin of `source` for a capability such as "8.9", kept for the process.

    Raises `ProviderError`: no compiler, or it refuses.
    """
    try:
        nvrtc = importlib.import_module("cuda.bindings.nvrtc")
        program = _call(nvrtc, "nvrtcCreateProgram", source, name.encode(), 0, [], [])
    except (ImportError, RuntimeError) as error:  # cuda-bindings loads libnvrtc at the first call
        raise ProviderError(f"CUDA's run-time compiler cannot be loaded: {error}\n{_HINT}") from error
    # As on the host: a product is rounded before it is added to.
    options = [f"--gpu-architecture=sm_{compute_capability.replace('.', '')}".encode(), b"--fmad=false"]
    try:
        _call(nvrtc, "nvrtcCompileProgram", program, len(options), options)
        cubin = bytes(_call(nvrtc, "nvrtcGetCUBINSize", program))
        _call(nvrtc, "nvrtcGetCUBIN", program, cubin)
    except ProviderError as error:
        said = bytes(_call(nvrtc, "nvrtcGetProgramLogSize", program))
        _call(nvrtc, "nvrtcGetProgramLog", program, said)
        words = said.rstrip(b"\0\n").decode("utf-8", "replace")
        raise ProviderError(f"{error} for {name} on compute capability {compute_capability}: {words}") from error
    finally:
        _call(nvrtc, "nvrtcDestroyProgram", program)
    return cubin


def _call(nvrtc: Any, function: str, *arguments: Any) -> Any:
    status, *values = getattr(nvrtc, function)(*arguments)
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise ProviderError(f"CUDA: {function} gave {status.name}")
    return values[0] if values else None
