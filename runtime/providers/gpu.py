"""The GPU: detection through the driver API, NVRTC, and the context, stream, memory and CUDA graphs of TensorRT."""

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
_INSTALL = pip_install("cuda-core cuda-bindings nvidia-cuda-nvrtc")
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
    """Version of the NVIDIA driver, such as "580.65.06", from its management library. Raises `ProviderError`."""
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


def cuda_module(name: str) -> Any:
    """A module of NVIDIA's packages for Python. Raises `ProviderError` where it cannot be imported."""
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError) as error:
        raise ProviderError(f"{name} cannot be imported: {error}\nhint: {_INSTALL}") from error


@functools.cache
def compile_cuda(source: bytes, name: str, compute_capability: str) -> bytes:
    """A cubin of `source` for a capability such as "8.9", kept for the process.

    Raises `ProviderError`: no compiler, or it refuses the source.
    """
    core, arch = cuda_module("cuda.core"), f"sm_{compute_capability.replace('.', '')}"
    options = core.ProgramOptions(name=name, arch=arch, fma=False)  # as on the host: a product is rounded, then added
    try:
        return bytes(core.Program(source.decode(), "c++", options).compile("cubin").code)
    except RuntimeError as error:  # NVRTC is loaded at the first call
        raise ProviderError(f"CUDA's run-time compiler cannot be loaded: {error}\nhint: {_INSTALL}") from error
    except Exception as error:  # CUDAError has no other base
        raise ProviderError(
            f"CUDA does not compile {name} for compute capability {compute_capability}: {error}"
        ) from error


GPU_LOCK = threading.RLock()
"""Held during every use of the GPU: while ONNX Runtime captures a graph no other thread of the process may allocate or
free there (`cudaStreamCaptureModeGlobal`)."""
_BLOCK_THREADS = 256
FULL_HINT = "hint: close other programs that use it, convert fewer files at once, or use provider='cpu'"
_OUT_OF_MEMORY = "CUDA_ERROR_OUT_OF_MEMORY"


class Device:
    """The first GPU, its primary context, and a stream. Not thread-safe: hold `lock`. Raises `ProviderError`.

    Through the driver API, not through `cuda.core`: contexts are pushed and popped, so that the caller's stays current,
    and memory is freed at once, not kept in a pool that others cannot use.
    """

    def __init__(self) -> None:
        self._capability = find_gpu().compute_capability  # cuda-bindings gives other errors for each of its reasons
        self._cuda, self.lock = cuda_module("cuda.bindings.driver"), GPU_LOCK
        with self.lock:
            self._call("cuInit", 0)
            self._gpu = self._call("cuDeviceGet", 0)
            self._context = self._call("cuDevicePrimaryCtxRetain", self._gpu)
            with self.current():
                self._stream = self._call("cuStreamCreate", self._cuda.CUstream_flags.CU_STREAM_NON_BLOCKING)
        # By the function that frees them, in the order of freeing.
        self._owned: dict[str, list[Any]] = {
            "cuGraphExecDestroy": [],
            "cuEventDestroy": [],
            "cuMemFree": [],
            "cuMemFreeHost": [],
            "cuModuleUnload": [],
        }
        self._close = weakref.finalize(
            keep_in_forks(self), _release, self._cuda, self._gpu, self._context, self._stream, self._owned
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
        return self._own("cuMemFree", int(self._call("cuMemAlloc", n_bytes)))

    def free(self, address: int) -> None:
        """Free memory of `allocate`."""
        self._owned["cuMemFree"].remove(address)
        self._call("cuMemFree", address)

    def pinned(self, n_bytes: int) -> NDArray[np.uint8]:
        """Host memory that the device copies from and to without a detour; it lasts as long as this object."""
        address = self._own("cuMemFreeHost", int(self._call("cuMemAllocHost", n_bytes)))
        return np.ctypeslib.as_array((ctypes.c_uint8 * n_bytes).from_address(address))

    def upload(self, address: int, array: NDArray[Any]) -> None:
        """Queue a copy from contiguous host memory, which has to stay as it is until it is done."""
        self._call("cuMemcpyHtoDAsync", address, array.ctypes.data, array.nbytes, self._stream)

    def download(self, array: NDArray[Any], address: int) -> None:
        """Queue a copy into contiguous host memory."""
        self._call("cuMemcpyDtoHAsync", array.ctypes.data, address, array.nbytes, self._stream)

    def used_bytes(self) -> int:
        """Bytes of GPU memory in use by all processes."""
        with self.current():
            free, total = self._call("cuMemGetInfo")
        return total - free

    def synchronize(self) -> None:
        """Wait for all that was queued."""
        self._call("cuStreamSynchronize", self._stream)

    def wait_for_all(self) -> None:
        """Wait for every stream of the context."""
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
            return self._own("cuGraphExecDestroy", self._call("cuGraphInstantiate", graph, 0))
        finally:
            if graph is not None:
                self._call("cuGraphDestroy", graph)

    def launch(self, graph: Any) -> None:
        """Queue a captured graph."""
        self._call("cuGraphLaunch", graph, self._stream)

    def load_kernels(self, source: bytes, name: str, kernels: Sequence[str]) -> dict[str, Any]:
        """CUDA C, compiled for this GPU; its kernels by name, which last as long as this object."""
        cubin = compile_cuda(source, name, self._capability)
        module = self._own("cuModuleUnload", self._call("cuModuleLoadData", cubin))
        return {kernel: self._call("cuModuleGetFunction", module, kernel.encode()) for kernel in kernels}

    def launch_kernel(self, kernel: Any, n_threads: int, arguments: Sequence[Any]) -> None:
        """Queue a kernel with that many threads or a few more; its arguments are ctypes objects."""
        pointers = (ctypes.c_void_p * len(arguments))(*map(ctypes.addressof, arguments))
        blocks = -(-n_threads // _BLOCK_THREADS)
        places = blocks, 1, 1, _BLOCK_THREADS, 1, 1, 0, self._stream
        self._call("cuLaunchKernel", kernel, *places, ctypes.addressof(pointers), 0)

    def event(self) -> Any:
        """A mark in the stream, for `record` and `elapsed_ms`; it lasts as long as this object."""
        return self._own("cuEventDestroy", self._call("cuEventCreate", 0))

    def record(self, event: Any) -> None:
        self._call("cuEventRecord", event, self._stream)

    def elapsed_ms(self, first: Any, last: Any) -> float:
        """Between two recorded events, once both are past."""
        return self._call("cuEventElapsedTime", first, last)

    def close(self) -> None:
        """Free everything and give the context back; what others have in it stays."""
        self._close()

    def _own(self, function: str, thing: Any) -> Any:
        self._owned[function].append(thing)
        return thing

    def _call(self, function: str, *arguments: Any) -> Any:
        try:
            status, *values = getattr(self._cuda, function)(*arguments)
        except (AttributeError, RuntimeError) as error:  # an older driver or cuda-bindings lacks the function
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
        return ProviderError(f"the GPU is out of memory: {function} asked{asked}{left}\n{FULL_HINT}")


def _release(cuda: Any, gpu: Any, context: Any, stream: Any, owned: dict[str, list[Any]]) -> None:
    with GPU_LOCK:  # the garbage may be collected in any thread: nothing may be freed while another captures
        cuda.cuCtxPushCurrent(context)
        cuda.cuStreamSynchronize(stream)
        for function, things in owned.items():
            for thing in things:
                getattr(cuda, function)(thing)
        cuda.cuStreamDestroy(stream)
        cuda.cuCtxPopCurrent()
        cuda.cuDevicePrimaryCtxRelease(gpu)
