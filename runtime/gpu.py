"""Is there a GPU that works? Asked of the driver alone, before any library that would crash without one is touched.

A lean TensorRT runtime ends the process when it meets a machine without a driver, and TensorRT RTX gives None; neither
is an exception. So every provider of this package asks here first.
"""

import ctypes
import sys
from dataclasses import dataclass
from typing import Any

from .errors import ProviderError

_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_NVML = "nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1"
_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR


@dataclass(frozen=True)
class Gpu:
    """The first GPU of this machine."""

    name: str
    compute_capability: str
    """For instance "8.9"."""
    memory_bytes: int
    cuda: tuple[int, int]
    """The newest CUDA that its driver can run."""

    def __str__(self) -> str:
        major, minor = self.cuda
        memory_gib = self.memory_bytes / 2**30
        return f"{self.name}, compute capability {self.compute_capability}, {memory_gib:.1f} GiB, CUDA {major}.{minor}"


def find_gpu() -> Gpu:
    """The GPU that CUDA computes on. Raises `ProviderError`: no driver, no GPU, or a driver that does not start."""
    driver = _load_driver()
    _call(driver, "cuInit", ctypes.c_uint(0))
    count, device, version = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    _call(driver, "cuDeviceGetCount", ctypes.byref(count))
    if count.value == 0:
        raise _no_gpu()
    _call(driver, "cuDeviceGet", ctypes.byref(device), ctypes.c_int(0))
    _call(driver, "cuDriverGetVersion", ctypes.byref(version))
    name, memory = ctypes.create_string_buffer(256), ctypes.c_size_t()
    _call(driver, "cuDeviceGetName", name, ctypes.c_int(len(name)), device)
    _call(driver, "cuDeviceTotalMem_v2", ctypes.byref(memory), device)
    capability = []
    for attribute in (_MAJOR, _MINOR):
        value = ctypes.c_int()
        _call(driver, "cuDeviceGetAttribute", ctypes.byref(value), ctypes.c_int(attribute), device)
        capability.append(str(value.value))
    cuda = version.value // 1000, version.value % 1000 // 10
    return Gpu(name.value.decode("utf-8", "replace"), ".".join(capability), memory.value, cuda)


def driver_version() -> str:
    """Of the NVIDIA driver, for instance "580.65.06", as its management library tells. Raises `ProviderError`."""
    text = ctypes.create_string_buffer(80)  # NVML_SYSTEM_DRIVER_VERSION_BUFFER_SIZE
    calls = ("nvmlInit_v2", ()), ("nvmlSystemGetDriverVersion", (text, ctypes.c_uint(len(text)))), ("nvmlShutdown", ())
    try:
        library = ctypes.CDLL(_NVML)
        for function, arguments in calls:
            if status := getattr(library, function)(*arguments):
                raise ProviderError(f"{_NVML} does not tell its version: {function} gave {status}")
    except (OSError, AttributeError) as error:
        raise ProviderError(f"{_NVML} cannot be loaded ({error})") from error
    return text.value.decode()


def _load_driver() -> Any:
    try:
        return ctypes.CDLL(_LIBRARY)
    except OSError as error:
        raise ProviderError(
            f"no NVIDIA driver: {_LIBRARY} cannot be loaded ({error})\n"
            "hint: install the NVIDIA driver; in a container, start it with its GPUs (docker run --gpus all)"
        ) from error


def _call(driver: Any, function: str, *arguments: Any) -> None:
    try:
        status = getattr(driver, function)(*arguments)
    except AttributeError as error:
        raise ProviderError(f"the NVIDIA driver is too old: {_LIBRARY} has no {function}\nhint: update it") from error
    if status == _NO_DEVICE:
        raise _no_gpu()
    if status:
        raise ProviderError(
            f"the NVIDIA driver does not work: {function} gave {_error_name(driver, status)}\n"
            "hint: nvidia-smi says more; after an update of the driver the machine has to be started again"
        )


def _error_name(driver: Any, status: int) -> str:
    name = ctypes.c_char_p()
    known = driver.cuGetErrorName(ctypes.c_int(status), ctypes.byref(name)) == 0 and name.value
    return name.value.decode() if known and name.value else f"error {status}"


def _no_gpu() -> ProviderError:
    return ProviderError(
        "there is an NVIDIA driver but no GPU\n"
        "hint: is it hidden by CUDA_VISIBLE_DEVICES, or not given to the container?"
    )
