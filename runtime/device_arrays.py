"""Arrays on the GPU, in and out, whoever made them, by `__cuda_array_interface__` or by DLPack.

    import pycuda.autoprimaryctx              # not autoinit: it makes a context of its own, where our memory is not
    from pycuda import gpuarray

    audio = gpuarray.to_gpu(samples)          # float32 (L,)
    out = Converter("demo", provider="cuda").convert(audio, 44_100)
    back = gpuarray.GPUArray(out.audio.shape, out.audio.dtype, gpudata=out.audio.address, base=out.audio)

`torch.as_tensor(out.audio, device="cuda")`, `cupy.asarray(out.audio)`, `numba.cuda.as_cuda_array(out.audio)` and every
`from_dlpack(out.audio)` take it as it is. The samples cross to the host on the way, because resampling and loudness are
computed there.
"""

import weakref
from collections.abc import Mapping
from typing import Any, NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

from . import dlpack
from .device import Device
from .errors import AudioError
from .forks import keep_in_forks


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
        """Version 3. No stream: what is here is ready."""
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.address, False),
            "strides": None,
            "stream": None,
            "version": 3,
        }

    def __dlpack__(self, *, stream: Any = None, **_: Any) -> Any:
        """A capsule. `stream` need not wait: what is here is ready."""
        return dlpack.export(self, self.address, len(self), self.__dlpack_device__())

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CUDA, 0

    def to_host(self) -> NDArray[np.float32]:
        """The samples as a numpy array."""
        return fetch(self._device, self)


def is_on_device(audio: Any) -> bool:
    """Whether `audio` says that it lies on a GPU."""
    if hasattr(audio, "__cuda_array_interface__"):
        return True
    return hasattr(audio, "__dlpack_device__") and audio.__dlpack_device__()[0] == dlpack.CUDA


def fetch(device: Device, audio: Any) -> NDArray[Any]:
    """A copy of a device array in host memory. Raises `AudioError` for one whose elements do not lie in a row."""
    capsule = None if hasattr(audio, "__cuda_array_interface__") else audio.__dlpack__()
    interface = audio.__cuda_array_interface__ if capsule is None else dlpack.read(capsule)
    host = np.empty(interface["shape"], np.dtype(interface["typestr"]))
    strides = interface.get("strides")
    if strides is not None and tuple(strides) != host.strides and host.size > 1:
        raise AudioError(
            f"audio on the GPU has shape {host.shape} and strides {tuple(strides)}; its elements must lie in a row\n"
            "hint: audio.contiguous() in torch, cupy.ascontiguousarray(audio)"
        )
    if host.size:
        with device.lock, device.current():
            device.wait_for_all()  # whichever stream of its owner still writes it
            device.download(host, interface["data"][0])
            device.synchronize()
    return host


def _free(device: Device, address: int) -> None:
    with device.lock, device.current():
        device.free(address)
