"""Arrays that lie on a GPU, here one of host memory."""

import gc
import sys

import numpy as np
import pytest
from gpu_double import HostDevice

from comosvc.runtime import AudioError, Converter, ProviderError
from comosvc.runtime.providers import device_arrays as dlpack
from comosvc.runtime.providers.device_arrays import DeviceArray, fetch, is_on_device
from comosvc.runtime.providers.transfers import Transfers


class Array:
    """What another library hands over."""

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


@pytest.fixture
def device():
    return HostDevice()


@pytest.mark.parametrize("dtype", ["float32", "float64", "int16"])
@pytest.mark.parametrize("shape", [(7,), (5, 2), (0,), (1, 1)])
def test_what_comes_back_is_what_was_there(device, dtype, shape):
    array = (100 * np.random.default_rng(0).random(shape)).astype(dtype)
    found = fetch(device, Array(array))
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)
    np.testing.assert_array_equal(fetch(device, Array(array, strides=None)), array)


def test_elements_that_do_not_lie_in_a_row_are_refused(device):
    with pytest.raises(AudioError, match=r"strides \(16,\); its elements must lie in a row"):
        fetch(device, Array(np.zeros(8)[::2]))


def test_an_array_of_ours_is_read_by_others_and_frees_its_memory(device):
    samples = np.arange(5, dtype=np.float32)
    array = DeviceArray.of(device, samples)
    interface = array.__cuda_array_interface__
    assert (interface["shape"], interface["typestr"], interface["version"]) == ((5,), "<f4", 3)
    assert interface["data"] == (array.address, False)
    np.testing.assert_array_equal(array.to_host(), samples)
    assert len(array) == 5
    assert len(device._memory) == 1
    del array
    gc.collect()
    assert not device._memory


class Packed:
    """What a library without `__cuda_array_interface__` hands over: numpy's own capsule, said to be of a GPU."""

    def __init__(self, array):
        self._array = array

    def __dlpack__(self):
        return self._array.__dlpack__()

    def __dlpack_device__(self):
        return 2, 0


@pytest.mark.parametrize("dtype", ["float32", "float64", "int16"])
@pytest.mark.parametrize("shape", [(7,), (5, 2), (0,), (1, 1)])
def test_dlpack_comes_in(device, dtype, shape):
    array = (100 * np.random.default_rng(0).random(shape)).astype(dtype)
    references = sys.getrefcount(array)
    packed = Packed(array)
    assert is_on_device(packed)
    assert not is_on_device(array)
    found = fetch(device, packed)
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)
    del packed
    assert sys.getrefcount(array) == references, "its owner was not told that it is free"


def test_dlpack_of_other_elements_is_refused(device):
    with pytest.raises(AudioError, match="elements of type 5"):
        fetch(device, Packed(np.zeros(3, np.complex64)))
    with pytest.raises(AudioError, match=r"strides \(16,\); its elements must lie in a row"):
        fetch(device, Packed(np.zeros(8)[::2]))


def test_dlpack_goes_out_and_frees_its_memory(device, monkeypatch):
    samples = np.arange(5, dtype=np.float32)
    array = DeviceArray.of(device, samples)
    assert array.__dlpack_device__() == (2, 0)
    np.testing.assert_array_equal(fetch(device, Packed(array)), samples)  # a capsule that nobody takes over
    assert not dlpack._given
    monkeypatch.setattr(DeviceArray, "__dlpack_device__", lambda _: (1, 0))  # the double's memory is the host's
    taken = np.from_dlpack(array)
    torch = pytest.importorskip("torch")
    seen = torch.from_dlpack(array)
    del array
    gc.collect()
    np.testing.assert_array_equal(taken, samples)
    np.testing.assert_array_equal(seen.numpy(), samples)
    assert len(device._memory) == 1
    del taken, seen
    gc.collect()
    assert not device._memory
    assert not dlpack._given


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
