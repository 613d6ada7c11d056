"""The GPU as the TensorRT runner uses it: the primary context, one stream, memory, and captured graphs.

The primary context is the one that torch, ONNX Runtime, CuPy and `pycuda.autoprimaryctx` compute in, so memory of all
of them may be passed around. It is current only while something of ours runs.
"""

import ctypes
import importlib
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import ProviderError
from .extras import pip_install
from .forks import keep_in_forks
from .gpu import find_gpu
from .nvrtc import compile_cuda

_BLOCK_THREADS = 256
_OUT_OF_MEMORY = "CUDA_ERROR_OUT_OF_MEMORY"
GPU_LOCK = threading.RLock()
"""Held by whatever uses the GPU: while ONNX Runtime captures a graph no other thread of the process may allocate or
free there (`cudaStreamCaptureModeGlobal`)."""


class Device:
    """The first GPU. Not thread-safe: whoever uses it holds `lock`. Raises `ProviderError`."""

    def __init__(self) -> None:
        self._capability = find_gpu().compute_capability  # cuda-bindings gives other errors for each of its reasons
        try:
            self._cuda = importlib.import_module("cuda.bindings.driver")
        except ImportError as error:
            raise ProviderError(
                f"cuda-bindings cannot be imported: {error}\nhint: {pip_install('cuda-bindings>=13.0')}"
            ) from error
        self.lock = GPU_LOCK
        self.allocations = 0
        """Of device memory, so far."""
        with self.lock:
            self._call("cuInit", 0)
            self._gpu = self._call("cuDeviceGet", 0)
            self._context = self._call("cuDevicePrimaryCtxRetain", self._gpu)
            with self.current():
                self._stream = self._call("cuStreamCreate", self._cuda.CUstream_flags.CU_STREAM_NON_BLOCKING)
        self._memory: list[int] = []
        self._pinned: list[int] = []
        self._modules: list[Any] = []
        self._graphs: list[Any] = []
        self._events: list[Any] = []
        owned = {
            "cuGraphExecDestroy": self._graphs,
            "cuEventDestroy": self._events,
            "cuMemFree": self._memory,
            "cuMemFreeHost": self._pinned,
            "cuModuleUnload": self._modules,
        }
        self._close = weakref.finalize(
            keep_in_forks(self), _release, self._cuda, self._gpu, self._context, self._stream, owned
        )
        self._close.atexit = False  # the driver itself is gone by then, or frees all there is

    @property
    def stream(self) -> int:
        """Its handle."""
        return int(self._stream)

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the primary context that of this thread, and give back what was there before."""
        self._call("cuCtxPushCurrent", self._context)
        try:
            yield
        finally:
            self._call("cuCtxPopCurrent")

    def allocate(self, n_bytes: int) -> int:
        """Address of new device memory, which lasts as long as this object."""
        self.allocations += 1
        address = int(self._call("cuMemAlloc", n_bytes))
        self._memory.append(address)
        return address

    def free(self, address: int) -> None:
        """Before that."""
        self._memory.remove(address)
        self._call("cuMemFree", address)

    def pinned(self, n_bytes: int) -> NDArray[np.uint8]:
        """Host memory that the device copies from and to without a detour; it lasts as long as this object."""
        address = int(self._call("cuMemAllocHost", n_bytes))
        self._pinned.append(address)
        return np.ctypeslib.as_array((ctypes.c_uint8 * n_bytes).from_address(address))

    def upload(self, address: int, array: NDArray[Any]) -> None:
        """Queue a copy from contiguous host memory, which has to stay as it is until it is done."""
        self._call("cuMemcpyHtoDAsync", address, array.ctypes.data, array.nbytes, self._stream)

    def download(self, array: NDArray[Any], address: int) -> None:
        """Queue a copy into contiguous host memory."""
        self._call("cuMemcpyDtoHAsync", array.ctypes.data, address, array.nbytes, self._stream)

    def used_bytes(self) -> int:
        """Of the GPU's memory, by whomever."""
        with self.current():
            free, total = self._call("cuMemGetInfo")
        return total - free

    def synchronize(self) -> None:
        """Wait for all that was queued."""
        self._call("cuStreamSynchronize", self._stream)

    def wait_for_all(self) -> None:
        """Wait for every stream of the context, whoever made it."""
        self._call("cuCtxSynchronize")

    def capture(self, work: Callable[[], object]) -> Any:
        """What `work` queues, as a graph to launch, which lasts as long as this object; nothing is computed."""
        mode, graph = self._cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL, None
        self._call("cuStreamBeginCapture", self._stream, mode)
        try:
            try:
                work()
            finally:
                graph = self._call("cuStreamEndCapture", self._stream)
            self._graphs.append(self._call("cuGraphInstantiate", graph, 0))
        finally:
            if graph is not None:
                self._call("cuGraphDestroy", graph)
        return self._graphs[-1]

    def launch(self, graph: Any) -> None:
        """Queue a captured graph."""
        self._call("cuGraphLaunch", graph, self._stream)

    def load_kernels(self, source: bytes, name: str, kernels: Sequence[str]) -> dict[str, Any]:
        """CUDA C, compiled for this GPU; its kernels by name, which last as long as this object."""
        module = self._call("cuModuleLoadData", compile_cuda(source, name, self._capability))
        self._modules.append(module)
        return {kernel: self._call("cuModuleGetFunction", module, kernel.encode()) for kernel in kernels}

    def launch_kernel(self, kernel: Any, n_threads: int, arguments: Sequence[Any]) -> None:
        """Queue a kernel with that many threads or a few more; its arguments are ctypes objects."""
        pointers = (ctypes.c_void_p * len(arguments))(*map(ctypes.addressof, arguments))
        blocks = -(-n_threads // _BLOCK_THREADS)
        places = blocks, 1, 1, _BLOCK_THREADS, 1, 1, 0, self._stream
        self._call("cuLaunchKernel", kernel, *places, ctypes.addressof(pointers), 0)

    def event(self) -> Any:
        """A mark in the stream, for `record` and `elapsed_ms`; it lasts as long as this object."""
        self._events.append(self._call("cuEventCreate", 0))
        return self._events[-1]

    def record(self, event: Any) -> None:
        self._call("cuEventRecord", event, self._stream)

    def elapsed_ms(self, first: Any, last: Any) -> float:
        """Between two recorded events, once both are past."""
        return self._call("cuEventElapsedTime", first, last)

    def close(self) -> None:
        """Free everything and give the context back; what others have in it stays."""
        self._close()

    def _call(self, function: str, *arguments: Any) -> Any:
        try:
            status, *values = getattr(self._cuda, function)(*arguments)
        except (AttributeError, RuntimeError) as error:  # functions that an older driver or cuda-bindings has not
            raise ProviderError(f"cuda-bindings cannot call {function}: {error}\nhint: update the driver") from error
        if status.name == _OUT_OF_MEMORY:
            raise self._out_of_memory(function, arguments)
        if status != self._cuda.CUresult.CUDA_SUCCESS:
            raise ProviderError(f"CUDA: {function} gave {status.name}")
        return values[0] if len(values) == 1 else values or None

    def _out_of_memory(self, function: str, arguments: tuple[Any, ...]) -> ProviderError:
        asked = f" for {arguments[0] / 1e6:.0f} MB" if function.startswith("cuMemAlloc") else ""
        status, *values = self._cuda.cuMemGetInfo()
        left = f"; {values[0] / 1e6:.0f} of {values[1] / 1e6:.0f} MB are free" if not int(status) else ""
        return ProviderError(
            f"the GPU is out of memory: {function} asked{asked}{left}\n"
            "hint: close what else uses it, convert fewer files at once, or use provider='cpu'"
        )


def _release(cuda: Any, gpu: Any, context: Any, stream: Any, owned: dict[str, list[Any]]) -> None:
    """`owned`: by the function that frees them."""
    with GPU_LOCK:  # whichever thread collects the garbage: nothing may be freed while another captures
        cuda.cuCtxPushCurrent(context)
        cuda.cuStreamSynchronize(stream)
        for function, things in owned.items():
            for thing in things:
                getattr(cuda, function)(thing)
        cuda.cuStreamDestroy(stream)
        cuda.cuCtxPopCurrent()
        cuda.cuDevicePrimaryCtxRelease(gpu)
