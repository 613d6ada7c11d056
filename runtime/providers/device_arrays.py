"""Arrays on the GPU, in and out, by `__cuda_array_interface__` or DLPack. https://dmlc.github.io/dlpack"""

import weakref
from collections.abc import Mapping
from typing import Any, NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

from ..conversion.processes import keep_in_forks
from ..errors import AudioError
from .gpu import Device, cuda_module

DLPACK_CUDA = 2  # kDLCUDA
_NO_WAIT = -1
"""In place of a stream, for `StridedMemoryView`: the data is ready, or `Device.wait_for_all` waits for it."""


class _CudaArray(Protocol):
    """An array of Numba, CuPy, pycuda or torch."""

    @property
    def __cuda_array_interface__(self) -> Mapping[str, Any]: ...


class _DlpackArray(Protocol):
    """An array of any library that exports DLPack capsules."""

    def __dlpack__(self) -> Any: ...

    def __dlpack_device__(self) -> tuple[Any, int]: ...


ArrayOnGpu = _CudaArray | _DlpackArray
"""Arrays on the GPU that `Converter.convert` takes besides numpy arrays."""


class DeviceArray:
    """Float32 samples (L,) on the GPU, in the primary context. Their memory lasts as long as this object."""

    dtype = np.dtype(np.float32)

    def __init__(self, device: Device, address: int, length: int) -> None:
        self.address, self.shape = address, (length,)
        self._device = device
        weakref.finalize(keep_in_forks(self), _free, device, address).atexit = False

    @classmethod
    def of(cls, device: Device, array: NDArray[np.float32]) -> "DeviceArray":
        """A copy of host samples (L,)."""
        array = np.ascontiguousarray(array, cls.dtype)
        with device.lock, device.current():
            address = device.allocate(max(1, array.nbytes))
            device.upload(address, array)
            device.synchronize()
        return cls(device, address, len(array))

    def __len__(self) -> int:
        return self.shape[0]

    def __reduce__(self) -> NoReturn:
        raise TypeError("samples on the GPU cannot be pickled or copied\nhint: to_host() gives them as a numpy array")

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3. No stream: the samples are ready."""
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.address, False),
            "strides": None,
            "stream": None,
            "version": 3,
        }

    def __dlpack__(self, **options: Any) -> Any:
        """A capsule, which keeps this object alive."""
        return _memory_view().from_cuda_array_interface(self, _NO_WAIT).__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return DLPACK_CUDA, 0

    def to_host(self) -> NDArray[np.float32]:
        """The samples as a numpy array."""
        return fetch(self._device, self)


def is_on_device(audio: Any) -> bool:
    """Whether `audio` is an array of GPU memory."""
    if hasattr(audio, "__dlpack_device__") and audio.__dlpack_device__()[0] == DLPACK_CUDA:
        return True
    return hasattr(audio, "__cuda_array_interface__")


def fetch(device: Device, audio: Any) -> NDArray[Any]:
    """A copy of a device array in host memory. Raises `AudioError` for one that is not contiguous or cannot be read."""
    try:
        if hasattr(audio, "__cuda_array_interface__"):
            found = audio.__cuda_array_interface__
            address, host = found["data"][0], np.empty(found["shape"], np.dtype(found["typestr"]))
            strides = found.get("strides")
        else:
            view = _memory_view().from_dlpack(audio, _NO_WAIT)  # which keeps the memory until the end
            address, host = view.ptr, np.empty(view.shape, view.dtype)
            strides = None if view.strides is None else tuple(step * host.itemsize for step in view.strides)
    except (BufferError, RuntimeError) as error:  # tensors that need a gradient, types that DLPack or numpy lacks
        raise AudioError(f"audio on the GPU cannot be read: {error}") from error
    if strides is not None and tuple(strides) != host.strides and host.size > 1:
        raise AudioError(
            f"audio on the GPU has shape {host.shape} and strides {tuple(strides)}; its elements must lie in a row\n"
            "hint: audio.contiguous() in torch, cupy.ascontiguousarray(audio)"
        )
    if host.size:
        with device.lock, device.current():
            device.wait_for_all()  # the stream that writes it may be any stream of its owner
            device.download(host, address)
            device.synchronize()
    return host


def _memory_view() -> Any:
    return cuda_module("cuda.core.utils").StridedMemoryView


def _free(device: Device, address: int) -> None:
    with device.lock, device.current():
        device.free(address)
