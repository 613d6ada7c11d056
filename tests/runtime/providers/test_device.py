"""What `Device` gives back to the driver, and when, told by a driver that only writes down what it is asked."""

import enum
import gc
import itertools
import threading
from types import SimpleNamespace

import pytest

from comosvc.runtime import ProviderError
from comosvc.runtime.providers import gpu as module
from comosvc.runtime.providers.gpu import GPU_LOCK, Device, Gpu


class Status(enum.IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_STREAM_CAPTURE_INVALIDATED = 901


GIVES = {
    "cuDevicePrimaryCtxRetain",
    "cuStreamCreate",
    "cuMemAlloc",
    "cuEventCreate",
    "cuStreamEndCapture",
    "cuGraphInstantiate",
}
"""Functions that return something: a number that no other has."""


class Driver:
    CUresult = Status
    CUstream_flags = SimpleNamespace(CU_STREAM_NON_BLOCKING=1)
    CUstreamCaptureMode = SimpleNamespace(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL=1)

    def __init__(self):
        self.calls, self.fails, self._numbers = [], {}, itertools.count(100)

    def __getattr__(self, function):
        def call(*arguments):
            self.calls.append((function, arguments))
            status = self.fails.get(function, Status.CUDA_SUCCESS)
            return (status, next(self._numbers)) if function in GIVES else (status,)

        return call

    def asked(self, *functions):
        return [(name, *arguments[:1]) for name, arguments in self.calls if name in functions]


@pytest.fixture
def driver(monkeypatch):
    made = Driver()
    monkeypatch.setattr(module, "find_gpu", lambda: Gpu("Test GPU", "8.9", 8 << 30, (13, 0)))
    monkeypatch.setattr(module.importlib, "import_module", lambda _: made)
    return made


@pytest.mark.parametrize("end", [Device.close, lambda _: None], ids=["closed", "collected"])
def test_all_that_was_made_is_given_back_once(driver, end):
    device = Device()
    events = [device.event() for _ in range(3)]
    graphs = [device.capture(lambda: None) for _ in range(2)]
    address = device.allocate(16)
    assert not driver.asked("cuGraphExecDestroy", "cuEventDestroy", "cuMemFree", "cuStreamDestroy")
    stream = device.stream
    end(device)
    del device
    gc.collect()
    given_back = driver.asked("cuGraphExecDestroy", "cuEventDestroy", "cuMemFree", "cuStreamDestroy")
    assert given_back == [
        *(("cuGraphExecDestroy", graph) for graph in graphs),
        *(("cuEventDestroy", event) for event in events),
        ("cuMemFree", address),
        ("cuStreamDestroy", stream),
    ]
    assert [name for name, _ in driver.calls[-2:]] == ["cuCtxPopCurrent", "cuDevicePrimaryCtxRelease"]


def test_nothing_is_given_back_while_another_thread_holds_the_gpu(driver):
    device = Device()
    stream = device.stream
    ending = threading.Thread(target=device.close)
    with GPU_LOCK:
        ending.start()
        ending.join(0.05)
        assert not driver.asked("cuStreamDestroy")
    ending.join()
    assert driver.asked("cuStreamDestroy") == [("cuStreamDestroy", stream)]


@pytest.mark.parametrize("what", ["the work", "cuGraphInstantiate"])
def test_a_capture_that_fails_leaves_nothing(driver, what):
    device, error = Device(), ProviderError("the engine of vocoder does not run")

    def work():
        if what == "the work":
            raise error

    driver.fails[what] = Status.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED
    with pytest.raises(ProviderError, match=r"does not run|cuGraphInstantiate gave CUDA_ERROR_STREAM_CAPTURE_INVAL"):
        device.capture(work)
    assert len(driver.asked("cuStreamEndCapture")) == len(driver.asked("cuGraphDestroy")) == 1
    device.close()
    assert not driver.asked("cuGraphExecDestroy")


def test_all_devices_take_turns(driver):
    assert Device().lock is Device().lock is GPU_LOCK
