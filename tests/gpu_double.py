"""A GPU made of host memory, its kernels compiled as C, and execution contexts that refuse calls as TensorRT does.

Work is queued and done in `synchronize`, as on a stream. ONNX Runtime computes the outputs of a context.
"""

import contextlib
import ctypes
import functools
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from comosvc.runtime import ProviderError
from comosvc.runtime.conversion.shapes import USES, grid_of, profile
from comosvc.runtime.providers.gpu import Gpu
from comosvc.runtime.providers.tensorrt.runner import EngineGraph, LoadedEngine, Scratch

TEST_GPU = Gpu("Test GPU", "8.9", 8 << 30, (13, 0))


class HostDevice:
    """The methods of `comosvc.runtime.providers.gpu.Device`."""

    stream = 7

    def __init__(self):
        self.lock = threading.RLock()
        self.allocations, self.launches, self.kernel_launches = 0, 0, 0
        self._memory, self._queue = {}, []
        self._current = False

    @contextlib.contextmanager
    def current(self):
        before, self._current = self._current, True
        yield
        self._current = before

    def allocate(self, n_bytes):
        assert self._current
        self.allocations += 1
        memory = np.full(n_bytes, 0xAB, np.uint8)
        self._memory[memory.ctypes.data] = memory
        return memory.ctypes.data

    def free(self, address):
        assert self._current
        del self._memory[address]

    def pinned(self, n_bytes):
        return np.full(n_bytes, 0xCD, np.uint8)

    def enqueue(self, work):
        assert self._current, "no context is current"
        self._queue.append(work)

    def upload(self, address, array):
        assert array.flags.c_contiguous
        self.enqueue(lambda: ctypes.memmove(address, array.ctypes.data, array.nbytes))

    def download(self, array, address):
        assert array.flags.c_contiguous
        self.enqueue(lambda: ctypes.memmove(array.ctypes.data, address, array.nbytes))

    def synchronize(self):
        queue, self._queue = self._queue, []
        for work in queue:
            work()

    def wait_for_all(self):
        assert self._current

    def capture(self, work):
        assert not self._queue, "a capture begins while work is under way"
        work()
        graph, self._queue = self._queue, []
        return graph

    def launch(self, graph):
        self.launches += 1
        self._queue += graph

    def load_kernels(self, source, name, kernels):
        assert self._current
        return kernels_as_c(source, tuple(kernels))

    def launch_kernel(self, kernel, n_threads, arguments):
        self.kernel_launches += 1
        self.enqueue(lambda: kernel(ctypes.c_uint64(n_threads), *arguments))

    def event(self):
        return [0.0]

    def record(self, event):
        self.enqueue(lambda: event.__setitem__(0, time.perf_counter()))

    def elapsed_ms(self, first, last):
        assert not self._queue
        return 1e3 * (last[0] - first[0])


class Context:
    """An `IExecutionContext` that takes its calls in one order only."""

    def __init__(self, device, bundle, name, profiles):
        entry, self._grid = bundle.manifest.graphs[name], grid_of(bundle.manifest, name)
        session = onnxruntime.InferenceSession(bundle.graph_bytes(name), providers=["CPUExecutionProvider"])
        self._device, self._compute = device, partial(session.run, [tensor[0] for tensor in entry.outputs])
        self._inputs = {name: (np.dtype(dtype), dims) for name, dtype, dims in entry.inputs}
        self._outputs = {name: (np.dtype(dtype), dims) for name, dtype, dims in entry.outputs}
        self._profiles, self._profile = list(profiles.values()), None
        self._shapes, self._out_shapes, self._addresses = {}, {}, {}
        self._scratch = None
        self.version = 0  # of its state: a graph captured from another one is undefined
        self.executed = 0

    def set_optimization_profile_async(self, index, stream):
        assert stream == self._device.stream
        self._profile, self._shapes = self._profiles[index], {}
        return True

    def set_device_memory(self, address, n_bytes):
        assert address
        assert n_bytes > 0
        self._scratch = address

    def set_input_shape(self, name, shape):
        if self._profile is None:
            raise RuntimeError("no profile is chosen")
        self.version += 1
        self._out_shapes, self._addresses = {}, {}
        for size, dim in zip(shape, self._inputs[name][1], strict=True):
            if isinstance(dim, int):
                if size != dim:
                    return False
            elif not self._profile[dim].least <= size <= self._profile[dim].most:
                return False
        self._shapes[name] = tuple(shape)
        return True

    def infer_shapes(self):
        missing = [name for name in self._inputs if name not in self._shapes]
        if not missing:
            sizes = {
                dim: n
                for name, (_, dims) in self._inputs.items()
                for dim, n in zip(dims, self._shapes[name], strict=True)
            }
            rows = max(1, sizes.get("N", 0) // self._grid.hop)
            sizes |= {"S": rows, "P": rows} if self._grid.takes_audio else {"L": sizes["T"] * self._grid.hop}
            self._out_shapes = {
                name: tuple(sizes[dim] if isinstance(dim, str) else dim for dim in dims)
                for name, (_, dims) in self._outputs.items()
            }
        return missing

    def get_tensor_shape(self, name):
        return self._out_shapes[name]

    def set_tensor_address(self, name, address):
        if not self._out_shapes:
            raise RuntimeError("set_tensor_address before infer_shapes")
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream):
        assert stream == self._device.stream
        unset = {*self._inputs, *self._outputs} - set(self._addresses)
        if unset or self._scratch is None:
            raise RuntimeError(f"execute before addresses of {unset} or the scratch memory are set")
        shapes, addresses, version = dict(self._shapes), dict(self._addresses), self.version
        outputs = dict(self._out_shapes)

        def work():
            assert version == self.version, "the context was changed after its graph was captured"
            inputs = {name: _at(addresses[name], shapes[name], self._inputs[name][0]).copy() for name in shapes}
            for (name, shape), found in zip(outputs.items(), self._compute(inputs), strict=True):
                _at(addresses[name], shape, self._outputs[name][0])[...] = found
            self.executed += 1

        self._device.enqueue(work)
        return True


def _at(address, shape, dtype):
    n_bytes = int(np.prod(shape)) * dtype.itemsize
    memory = (ctypes.c_uint8 * n_bytes).from_address(address)
    return np.frombuffer(memory, np.uint8).view(dtype).reshape(shape)


def engine_graph(bundle, name, device, uses=tuple(USES), captures=True, maker=None):
    """A graph of a bundle on the double, and the list of its contexts."""
    profiles = {use: profile(bundle.manifest, name, use) for use in uses}
    contexts = []

    def open_context():
        contexts.append(Context(device, bundle, name, profiles))
        return contexts[-1]

    with device.current():
        scratch = Scratch(device.allocate(1 << 10), 1 << 10)
    loaded = LoadedEngine(profiles, open_context, captures, build_all="comosvc-export engines of the test")
    entry, grid = bundle.manifest.graphs[name], grid_of(bundle.manifest, name)
    return EngineGraph(name, entry, grid, loaded, device, scratch, maker), contexts


_AS_C = """
#include <math.h>
#define __device__
#define __global__
static struct { unsigned x; } blockIdx, blockDim = {256}, threadIdx;
static unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
#include "source.cu"
#define EVERY_THREAD(n) \\
    for (blockIdx.x = 0; blockIdx.x < (n + blockDim.x - 1) / blockDim.x; blockIdx.x++) \\
        for (threadIdx.x = 0; threadIdx.x < blockDim.x; threadIdx.x++)
void run_normals(u64 n, float *out, u64 count, u64 total, Stream stream) {
    EVERY_THREAD(n) normals(out, count, total, stream);
}
void run_sines(u64 n, float *out, u64 count, u64 total, Stream stream, u64 *frames, double *phases, u64 hop) {
    EVERY_THREAD(n) sines(out, count, total, stream, frames, phases, hop);
}
void run_pulses(
    u64 n, float *out, u64 count, u64 total, u64 channels, double *frames, u64 hop, double sample_rate, double band_hz
) {
    EVERY_THREAD(n) pulses(out, count, total, channels, frames, hop, sample_rate, band_hz);
}
"""


@functools.cache
def kernels_as_c(source: bytes, kernels: tuple[str, ...]):
    """CUDA kernels on the processor, with a loop in place of the threads: functions (threads, arguments...) by name."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler, "a C compiler is needed"
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "source.cu").write_bytes(source)
        Path(folder, "host.c").write_text(_AS_C)
        # No contraction, as with NVRTC.
        command = [compiler, "-O2", "-ffp-contract=off", "-shared", "-fPIC", "host.c", "-o", "host.so", "-lm"]
        subprocess.run(command, cwd=folder, check=True)
        library = ctypes.CDLL(str(Path(folder, "host.so")))
    return {kernel: getattr(library, f"run_{kernel}") for kernel in kernels}


def library(folder, source, name="libcuda.so.1"):
    """The folder of a shared library in the place of NVIDIA's driver, or of another library."""
    if shutil.which("cc") is None or sys.platform != "linux":
        pytest.skip("needs a C compiler on Linux")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.c").write_text(source)
    command = ["cc", "-shared", "-fPIC", "-fno-builtin", "-o", folder / name, folder / f"{name}.c"]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def in_process(code, libraries=None, width=200, *arguments):
    environment = {"PATH": "/usr/bin:/bin", "COLUMNS": str(width), "HOME": "/nonexistent"}
    if libraries is not None:
        environment["LD_LIBRARY_PATH"] = str(libraries)
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def why_not(works):
    """The first line of the `ProviderError` of `works`, or None."""
    try:
        works()
    except ProviderError as error:
        return str(error).partition("\n")[0]
    return None
