"""Arrays on a GPU, here of host memory, in and out."""

import gc
import sys

import numpy as np
import pytest
from gpu_double import HostDevice, in_process, library

from comosvc.runtime import AudioError, Converter, ProviderError
from comosvc.runtime.providers.device_arrays import DeviceArray, fetch, is_on_device
from comosvc.runtime.providers.transfers import Transfers

SHAPES, DTYPES = [(7,), (5, 2), (0,), (1, 1)], ["float32", "float64", "int16"]


class Array:
    """An array of another library with the array interface of CUDA."""

    def __init__(self, array, **changes):
        self._array = array
        self.__cuda_array_interface__ = {
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (array.ctypes.data, True),
            "strides": array.strides,
            "version": 3,
            **changes,
        }


class Packed:
    """An array of another library with DLPack alone: numpy's own capsule, said to be of a GPU."""

    def __init__(self, array):
        self._array = array

    def __dlpack__(self, *, stream=None, max_version=None):
        return self._array.__dlpack__()

    def __dlpack_device__(self):
        return 2, 0


@pytest.fixture
def device():
    return HostDevice()


@pytest.mark.parametrize("kind", [Array, lambda array: Array(array, strides=None, version=2), Packed])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_copy_equals_the_array_on_the_device_which_is_released(device, kind, dtype, shape):
    array = (100 * np.random.default_rng(0).random(shape)).astype(dtype)
    references, there = sys.getrefcount(array), kind(array)
    assert is_on_device(there)
    assert not is_on_device(array)
    found = fetch(device, there)
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)
    del there
    assert sys.getrefcount(array) == references


@pytest.mark.parametrize("kind", [Array, Packed])
def test_arrays_that_cannot_be_used_are_refused(device, converter, monkeypatch, kind):
    with pytest.raises(AudioError, match=r"strides \(16,\); its elements must lie in a row"):
        fetch(device, kind(np.zeros(8)[::2]))
    monkeypatch.setattr(converter, "_fetched", lambda audio: fetch(device, audio))
    with pytest.raises(AudioError, match="complex64"):
        converter.convert(kind(np.zeros(3, np.complex64)), 24_000)


class NeedsGradient(Array):
    """As a tensor of torch that needs a gradient."""

    def __dlpack_device__(self):
        return 2, 0

    @property
    def __cuda_array_interface__(self):
        raise RuntimeError("Can't get __cuda_array_interface__ on Variable that requires grad")

    @__cuda_array_interface__.setter
    def __cuda_array_interface__(self, _):
        pass


class NotExported(Packed):
    def __dlpack__(self, *, stream=None, max_version=None):
        raise BufferError("Can't export tensors that require gradient")


@pytest.mark.parametrize("kind", [NeedsGradient, NotExported])
def test_an_array_that_its_library_does_not_hand_over_is_refused(device, kind):
    array = kind(np.zeros(3, np.float32))
    assert is_on_device(array)
    with pytest.raises(AudioError, match=r"audio on the GPU cannot be read: Can't .* gra"):
        fetch(device, array)


def test_an_array_of_ours_is_read_by_others_and_frees_its_memory(device):
    samples = np.arange(5, dtype=np.float32)
    array = DeviceArray.of(device, samples)
    interface = array.__cuda_array_interface__
    assert (interface["shape"], interface["typestr"], interface["version"]) == ((5,), "<f4", 3)
    assert interface["data"] == (array.address, False)
    np.testing.assert_array_equal(array.to_host(), samples)
    assert (len(array), len(device._memory)) == (5, 1)
    del array
    gc.collect()
    assert not device._memory


DRIVER = """
#define _GNU_SOURCE
#include <dlfcn.h>
int cuPointerGetAttributes(unsigned n, int *attributes, void **data, unsigned long long pointer) {
    for (unsigned i = 0; i < n; i++) *(int *)data[i] = attributes[i] == 2 ? 2 : 0;  // memory of the first device
    return 0;
}
int cuPointerGetAttribute(void *data, int attribute, unsigned long long pointer) {
    return cuPointerGetAttributes(1, &attribute, &data, pointer);
}
int cuDriverGetVersion(int *version) { *version = 13020; return 0; }
int cuGetProcAddress_v2(char *name, void **function, int version, unsigned long long flags, int *status) {
    *function = dlsym(dlopen("libcuda.so.1", RTLD_NOLOAD | RTLD_LAZY), name);
    return *function ? 0 : 500;
}
"""
OUT = """
import gc, sys
sys.path.append(sys.argv[1])
import numpy as np
from cuda.core.utils import StridedMemoryView
from gpu_double import HostDevice, in_process, library
from comosvc.runtime.providers.device_arrays import DeviceArray, fetch
device, samples = HostDevice(), np.arange(5, dtype=np.float32)
array = DeviceArray.of(device, samples)
assert array.__dlpack_device__() == (2, 0)
capsules = [array.__dlpack__(), array.__dlpack__(stream=2, max_version=(1, 0))]
del capsules  # which were not consumed
view = StridedMemoryView.from_dlpack(array, -1)
assert (view.ptr, view.shape, view.dtype, view.__dlpack_device__()) == (array.address, (5,), np.float32, (2, 0))
del array
gc.collect()
assert len(device._memory) == 1
del view
gc.collect()
assert not device._memory
"""


def test_dlpack_goes_out_and_frees_its_memory(tmp_path):
    """With a driver that only says that the pointer is of the first GPU."""
    pytest.importorskip("cuda.core.utils", reason="cuda-core is not installed")
    done = in_process(OUT, library(tmp_path, DRIVER), 200, __file__.partition("runtime")[0])
    assert done.returncode == 0, done.stderr


def test_audio_on_the_device_gives_audio_on_the_device(converter, device, song, monkeypatch):
    wanted = converter.convert(song, 24_000)
    monkeypatch.setattr(Converter, "provider", "cuda")
    monkeypatch.setattr(converter, "_device", device)
    monkeypatch.setattr(converter, "_audio_crossed", Transfers())
    found = converter.convert(Array(song), 24_000)
    assert isinstance(found.audio, DeviceArray)
    np.testing.assert_array_equal(found.audio.to_host(), wanted.audio)
    assert isinstance(converter.convert(song, 24_000).audio, np.ndarray)
    crossed = converter.transfers["audio"]
    assert crossed.calls == 2
    assert crossed.received_bytes == {"audio": song.nbytes}
    assert crossed.sent_bytes == {"audio": wanted.audio.nbytes}


def test_a_provider_of_the_processor_refuses_it(bundle_path, song):
    with Converter(bundle_path, provider="cpu", threads=1) as converter:
        with pytest.raises(ProviderError, match=r"audio lies on the GPU.*\n.*\.cpu\(\)\.numpy\(\)"):
            converter.convert(Array(song), 24_000)
        assert converter.transfers == {}
