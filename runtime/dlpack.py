"""DLPack by hand: the struct that array libraries pass each other in a capsule. https://dmlc.github.io/dlpack"""

import ctypes
from ctypes import CFUNCTYPE, POINTER, PYFUNCTYPE, c_char_p, c_int, c_int32, c_int64, c_uint8, c_uint16, c_void_p
from typing import Any

import numpy as np

from .errors import AudioError

CUDA = 2  # kDLCUDA
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


def export(owner: Any, address: int, length: int, device: tuple[int, int]) -> Any:
    """A capsule of float32 (length,) at `address`, which keeps `owner` alive."""
    shape = (c_int64 * 1)(length)
    managed = _Managed(address, device, 1, _KINDS.index("f"), 32, 1, shape, None, 0, None, _delete)
    place = ctypes.addressof(managed)
    _given[place] = managed, shape, owner
    return _new(place, _NAME, ctypes.cast(_destroy, c_void_p))


def read(capsule: Any) -> dict[str, Any]:
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
