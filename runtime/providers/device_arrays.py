"""Arrays on the GPU, in and out, by `__cuda_array_interface__` or DLPack. https://dmlc.github.io/dlpack"""

import ctypes
import weakref
from collections.abc import Mapping
from ctypes import CFUNCTYPE, POINTER, PYFUNCTYPE, c_char_p, c_int, c_int32, c_int64, c_uint8, c_uint16, c_void_p
from typing import Any, NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

from ..conversion.processes import keep_in_forks
from ..errors import AudioError
from .gpu import Device

DLPACK_CUDA = 2  # kDLCUDA
_KINDS = "iuf"  # kDLInt, kDLUInt, kDLFloat
_NAME = b"dltensor"  # a consumer that takes it over renames the capsule
_Deleter = CFUNCTYPE(None, c_void_p)


class _Managed(ctypes.Structure):
    """`DLManagedTensor`, its `DLTensor` spelled out."""

    _fields_ = (
        ("data", c_void_p),
        ("device", c_int32 * 2),  # type, number
        ("ndim", c_int32),
        ("code", c_uint8),
        ("bits", c_uint8),
        ("lanes", c_uint16),
        ("shape", POINTER(c_int64)),
        ("strides", POINTER(c_int64)),  # in elements; null where all lie in a row
        ("byte_offset", ctypes.c_uint64),
        ("context", c_void_p),
        ("deleter", _Deleter),
    )


_new = PYFUNCTYPE(ctypes.py_object, c_void_p, c_char_p, c_void_p)(("PyCapsule_New", ctypes.pythonapi))
_is_valid = PYFUNCTYPE(c_int, c_void_p, c_char_p)(("PyCapsule_IsValid", ctypes.pythonapi))
_pointer = PYFUNCTYPE(c_void_p, c_void_p, c_char_p)(("PyCapsule_GetPointer", ctypes.pythonapi))
_given: dict[int, tuple[Any, ...]] = {}
"""What must live until a consumer is done, by the struct's address."""


@_Deleter
def _delete(managed: int) -> None:
    _given.pop(managed, None)


@_Deleter
def _destroy(capsule: int) -> None:
    """Of a capsule that nobody took over."""
    if _is_valid(capsule, _NAME):
        _delete(_pointer(capsule, _NAME))


def export_dlpack(owner: Any, address: int, length: int, device: tuple[int, int]) -> Any:
    """A capsule of float32 (length,) at `address`, which keeps `owner` alive."""
    shape = (c_int64 * 1)(length)
    managed = _Managed(address, device, 1, _KINDS.index("f"), 32, 1, shape, None, 0, None, _delete)
    place = ctypes.addressof(managed)
    _given[place] = managed, shape, owner
    return _new(place, _NAME, ctypes.cast(_destroy, c_void_p))


def read_dlpack(capsule: Any) -> dict[str, Any]:
    """Of an array in a capsule, which has to be kept until it was used, what `__cuda_array_interface__` says."""
    tensor = _Managed.from_address(_pointer(id(capsule), _NAME))
    if tensor.code >= len(_KINDS) or tensor.lanes != 1:
        raise AudioError(f"audio in DLPack has elements of type {tensor.code}; float32, float64 or int16 is meant")
    dtype = np.dtype(f"{_KINDS[tensor.code]}{tensor.bits // 8}")
    axes = range(tensor.ndim)
    return {
        "shape": tuple(tensor.shape[axis] for axis in axes),
        "typestr": dtype.str,
        "data": ((tensor.data or 0) + tensor.byte_offset, True),
        "strides": tuple(tensor.strides[axis] * dtype.itemsize for axis in axes) if tensor.strides else None,
    }


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
        return export_dlpack(self, self.address, len(self), self.__dlpack_device__())

    def __dlpack_device__(self) -> tuple[int, int]:
        return DLPACK_CUDA, 0

    def to_host(self) -> NDArray[np.float32]:
        """The samples as a numpy array."""
        return fetch(self._device, self)


def is_on_device(audio: Any) -> bool:
    """Whether `audio` says that it lies on a GPU."""
    if hasattr(audio, "__cuda_array_interface__"):
        return True
    return hasattr(audio, "__dlpack_device__") and audio.__dlpack_device__()[0] == DLPACK_CUDA


def fetch(device: Device, audio: Any) -> NDArray[Any]:
    """A copy of a device array in host memory. Raises `AudioError` for one whose elements do not lie in a row."""
    capsule = None if hasattr(audio, "__cuda_array_interface__") else audio.__dlpack__()
    interface = audio.__cuda_array_interface__ if capsule is None else read_dlpack(capsule)
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
