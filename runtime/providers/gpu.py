"""The GPU: detection through the driver API, the context and stream of TensorRT, its memory, CUDA graphs, NVRTC."""

import ctypes
import functools
import importlib
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..conversion.processes import keep_in_forks
from ..errors import ProviderError, pip_install

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


_HINT = f"hint: {pip_install('cuda-bindings nvidia-cuda-nvrtc')}, or the CUDA toolkit"


@functools.cache
def compile_cuda(source: bytes, name: str, compute_capability: str) -> bytes:
    """A cubin of `source` for a capability such as "8.9", kept for the process.

    Raises `ProviderError`: no compiler, or it refuses.
    """
    try:
        nvrtc = importlib.import_module("cuda.bindings.nvrtc")
        program = _nvrtc_call(nvrtc, "nvrtcCreateProgram", source, name.encode(), 0, [], [])
    except (ImportError, RuntimeError) as error:  # cuda-bindings loads libnvrtc at the first call
        raise ProviderError(f"CUDA's run-time compiler cannot be loaded: {error}\n{_HINT}") from error
    # As on the host: a product is rounded before it is added to.
    options = [f"--gpu-architecture=sm_{compute_capability.replace('.', '')}".encode(), b"--fmad=false"]
    try:
        _nvrtc_call(nvrtc, "nvrtcCompileProgram", program, len(options), options)
        cubin = bytes(_nvrtc_call(nvrtc, "nvrtcGetCUBINSize", program))
        _nvrtc_call(nvrtc, "nvrtcGetCUBIN", program, cubin)
    except ProviderError as error:
        said = bytes(_nvrtc_call(nvrtc, "nvrtcGetProgramLogSize", program))
        _nvrtc_call(nvrtc, "nvrtcGetProgramLog", program, said)
        words = said.rstrip(b"\0\n").decode("utf-8", "replace")
        raise ProviderError(f"{error} for {name} on compute capability {compute_capability}: {words}") from error
    finally:
        _nvrtc_call(nvrtc, "nvrtcDestroyProgram", program)
    return cubin


def _nvrtc_call(nvrtc: Any, function: str, *arguments: Any) -> Any:
    status, *values = getattr(nvrtc, function)(*arguments)
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise ProviderError(f"CUDA: {function} gave {status.name}")
    return values[0] if values else None


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
