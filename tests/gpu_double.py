"""A GPU made of host memory, and execution contexts that refuse what TensorRT refuses or leaves undefined.

Work is queued and done when somebody waits for it, as on a stream. What a context computes is ONNX Runtime's answer.
"""

import contextlib
import ctypes
import threading
import time

import host_kernels
import numpy as np
import onnxruntime

from comosvc.runtime.conversion.shapes import USES, grid_of, profile
from comosvc.runtime.providers.tensorrt.runner import EngineGraph, LoadedEngine, Scratch


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
        return host_kernels.load(source, tuple(kernels))

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

    def __init__(self, device, entry, profiles, compute):
        self._device, self._compute = device, compute
        self._inputs = {name: (np.dtype(dtype), dims) for name, dtype, dims in entry.inputs}
        self._outputs = {name: np.dtype(dtype) for name, dtype, _ in entry.outputs}
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
            zeros = {name: np.zeros(self._shapes[name], dtype) for name, (dtype, _) in self._inputs.items()}
            found = self._compute(zeros)
            self._out_shapes = {name: out.shape for name, out in zip(self._outputs, found, strict=True)}
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
                _at(addresses[name], shape, self._outputs[name])[...] = found
            self.executed += 1

        self._device.enqueue(work)
        return True


def _at(address, shape, dtype):
    n_bytes = int(np.prod(shape)) * dtype.itemsize
    memory = (ctypes.c_uint8 * n_bytes).from_address(address)
    return np.frombuffer(memory, np.uint8).view(dtype).reshape(shape)


def engine_graph(bundle, name, device, uses=tuple(USES), captures=True, maker=None):
    """A graph of a bundle on the double, and the list that its contexts will be in."""
    entry = bundle.manifest.graphs[name]
    session = onnxruntime.InferenceSession(bundle.graph_bytes(name), providers=["CPUExecutionProvider"])
    outputs = [tensor[0] for tensor in entry.outputs]
    profiles = {use: profile(bundle.manifest, name, use) for use in uses}
    contexts = []

    def open_context():
        contexts.append(Context(device, entry, profiles, lambda inputs: session.run(outputs, inputs)))
        return contexts[-1]

    with device.current():
        scratch = Scratch(device.allocate(1 << 10), 1 << 10)
    loaded = LoadedEngine(profiles, open_context, captures, build_all="comosvc-export engines of the test")
    return EngineGraph(name, entry, grid_of(bundle.manifest, name), loaded, device, scratch, maker), contexts
