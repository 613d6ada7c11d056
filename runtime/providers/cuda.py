"""Provider `cuda`: ONNX Runtime on an NVIDIA GPU.

Inputs and outputs are bound on the device. Short calls of one clip, as a stream makes, are padded to buckets with
buffers of their own, and each bucket becomes a CUDA graph; longer ones gain nothing from that. Once a bucket is there
its calls allocate nothing on the device; a longer call takes its buffers from ONNX Runtime's arena, which keeps them.
"""

import functools
import logging
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..conversion.generated import Generated, Input
from ..conversion.processes import keep_in_forks
from ..conversion.shapes import LengthGrid, Shape, bucket, check_outputs, grid_of, length_of
from ..errors import BundleError, ProviderError, pip_install
from ..voice.bundle import Bundle
from ..voice.manifest import GraphEntry
from .gpu import GPU_LOCK, Device, find_gpu
from .gpu_source import SourceMaker, Wanted, make_source_maker
from .sessions import CPU, check_signature, libraries_in_words, onnx_runtime, preload, session_options, wheels_in_words
from .transfers import Transfers, clips_of, joined, n_bytes, n_clips, padded, split_drawn

log = logging.getLogger(__name__)
T = TypeVar("T")

PRECISIONS = ("fp16", "fp32")
CUDA, _DEVICE = "CUDAExecutionProvider", "cuda"
_OPTIONS = {
    "device_id": "0",
    # Else every new length of a clip is a search of seconds (onnxruntime#12120).
    "cudnn_conv_algo_search": "HEURISTIC",
    "use_tf32": "0",  # fp32 is fp32
}
_PLAIN_RUN = "-1"  # gpu_graph_id: neither captured nor replayed
_THREAD = ThreadPoolExecutor(1, "comosvc-cuda")
"""Calls ONNX Runtime, for all voices: it keeps the graphs that it captured for each thread, and captures them anew in
another (`CUDAExecutionProvider::PerThreadContext`)."""
TINY = (  # y = x + x for four floats; opset 20
    b'\x08\n:5\n\x0e\n\x01x\n\x01x\x12\x01y"\x03Add\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x04'
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x04B\x04\n\x00\x10\x14"
)


def probe() -> None:
    """Raise `ProviderError` unless a graph really runs on the GPU: being listed means only being compiled in."""
    try:
        find_gpu()
    except ProviderError as no_gpu:
        try:
            _with_cuda()
        except ProviderError as error:  # both are to be mended
            raise ProviderError(f"{no_gpu}\nand {error}") from no_gpu
        raise
    _probe_runtime()


def _with_cuda() -> Any:
    """The `onnxruntime` module. Raises `ProviderError` if it is not there, or compiled without CUDA."""
    ort = onnx_runtime()
    if CUDA not in ort.get_available_providers():
        raise ProviderError(f"onnxruntime {ort.__version__} is compiled without CUDA{wheels_in_words()}")
    return ort


@functools.cache
def _probe_runtime() -> None:
    ort = _with_cuda()
    preload(ort)
    try:
        if _in_thread(lambda: _runs_tiny(ort)):
            return
        why = "it runs on the CPU instead"
    except ProviderError:
        raise
    except Exception as error:  # ONNX Runtime's own exceptions share no base but this
        if _is_out_of_memory(error):
            raise _out_of_memory("a graph of one addition", error) from error
        why = str(error)
    install_it = pip_install('"onnxruntime-gpu[cuda,cudnn]"')
    raise ProviderError(
        f"onnxruntime {ort.__version__} does not run on the GPU: {why}; {libraries_in_words(ort)}\n"
        f"hint: {install_it} brings CUDA and cuDNN; the driver must know that CUDA"
    )


def _runs_tiny(ort: Any) -> bool:
    """Whether it runs on the GPU."""
    session = _open_session(ort, TINY, session_options(ort, 1), [(CUDA, _OPTIONS)])
    if session.get_providers()[0] != CUDA:
        return False
    x = np.arange(4, dtype=np.float32)
    y = _run_bound(ort, session, {"x": x}, ["y"])[0]
    if not np.array_equal(y, 2.0 * x):
        raise ProviderError(f"the GPU computes wrongly with onnxruntime {ort.__version__}: {x} + {x} gave {y}")
    return True


def _open_session(ort: Any, model: bytes, options: Any, providers: list[Any]) -> Any:
    """Without what ONNX Runtime's Python does where that fails: it prints, and opens the graph on the CPU."""
    return keep_in_forks(ort.InferenceSession(model, options, providers=providers, enable_fallback=0))


def _in_thread(work: Callable[[], T]) -> T:
    """`work`, in the thread that is for it, while nobody else of this process uses the GPU."""

    def alone() -> T:
        with GPU_LOCK:
            return work()

    return _THREAD.submit(alone).result()


def open_graphs(bundle: Bundle, precision: str, threads: int | None) -> dict[str, "CudaGraph"]:
    """Every graph of the bundle, ready to run."""
    _probe_runtime()
    maker = _source_maker()
    entries = bundle.manifest.entries(precision)
    return {name: open_graph(bundle, name, entry, threads, maker) for name, entry in entries.items()}


def _source_maker() -> SourceMaker | None:
    """None, and why in the log, where cuda-bindings or CUDA's compiler is missing."""
    try:
        return make_source_maker(Device())
    except ProviderError as error:
        log.warning("the vocoder's source and all noise are made on the host, and sent: %s", error)
        return None


def open_graph(
    bundle: Bundle, name: str, entry: GraphEntry, threads: int | None, maker: SourceMaker | None = None
) -> "CudaGraph":
    """One of them."""
    manifest = bundle.manifest
    captured = 0 if grid_of(manifest, name).sees_all else length_of(manifest, name, "stream").most
    model = bundle.entry_bytes(name, entry)
    return CudaGraph(name, entry, model, grid_of(manifest, name), captured, threads, maker)


@dataclass(frozen=True)
class _CudaBucket:
    """Device memory, bound. `number` is the CUDA graph's, as ONNX Runtime takes it."""

    binding: Any
    inputs: dict[str, Any]
    shapes: dict[str, Shape]
    number: str


class CudaGraph:
    """One graph of a bundle. May be called from several threads; they take turns, with those of other graphs too.

    `captured_frames`: calls of one clip up to that length run as CUDA graphs. `on_cpu`: operators that ONNX Runtime
    keeps on the processor, as it does for those that compute shapes. `maker` makes what a formula gives on the GPU;
    without one the host does, and sends it.
    """

    takes_generated = True

    def __init__(
        self,
        name: str,
        entry: GraphEntry,
        model: bytes,
        grid: LengthGrid,
        captured_frames: int,
        threads: int | None,
        maker: SourceMaker | None = None,
    ) -> None:
        self.name, self.transfers, self._maker = name, Transfers(), maker
        self._inputs = [tensor[0] for tensor in entry.inputs]
        self._outputs = [tensor[0] for tensor in entry.outputs]
        self._dtypes = {tensor: np.dtype(dtype) for tensor, dtype, _ in entry.inputs}
        self._entry, self._grid, self.captured_frames = entry, grid, captured_frames
        self._buckets, self._ort = dict[int, _CudaBucket](), onnx_runtime()
        self._most = sys.maxsize
        """Clips at once; fewer once there was no memory for them."""
        try:
            self._session = _in_thread(lambda: self._open(model, threads))
        except Exception as error:
            if _is_out_of_memory(error):
                raise _out_of_memory(f"the {name} graph cannot be loaded", error) from error
            raise BundleError(f"the {name} graph cannot be loaded on the GPU: {error}") from error
        if self._session.get_providers()[0] != CUDA:
            raise ProviderError(f"the {name} graph was asked to run on {CUDA} but runs on {CPU}")
        check_signature(name, "inputs", self._session.get_inputs(), entry.inputs)
        check_signature(name, "outputs", self._session.get_outputs(), entry.outputs)
        parts = self._session.get_provider_graph_assignment_info()
        self.on_cpu = [node.op_type for part in parts if part.ep_name != CUDA for node in part.get_nodes()]

    def _open(self, model: bytes, threads: int | None) -> Any:
        """With CUDA graphs, or without where ONNX Runtime refuses them."""
        options = session_options(self._ort, threads)
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        if self.captured_frames:
            try:
                return _open_session(self._ort, model, options, [(CUDA, {**_OPTIONS, "enable_cuda_graph": "1"}), CPU])
            except Exception as error:
                if _is_out_of_memory(error):
                    raise
                log.info("the %s graph runs without CUDA graphs: %s", self.name, error)
                self.captured_frames = 0
        return _open_session(self._ort, model, options, [(CUDA, _OPTIONS), CPU])

    def run(self, inputs: dict[str, Input], /) -> tuple[NDArray, ...]:
        """Outputs in the order of the manifest, as long as the inputs or longer.

        Raises `ProviderError`, or `BundleError` for outputs that are not what the contract says.
        """
        taken = {name: inputs[name] for name in self._inputs}
        parts, first = list[tuple[NDArray, ...]](), 0
        while first < n_clips(taken):
            part = clips_of(taken, first, self._most)
            try:
                parts.append(_in_thread(partial(self._run, part)))
                first += n_clips(part)
            except BundleError:
                raise
            except Exception as error:
                count = n_clips(part)
                if count == 1 or not _is_out_of_memory(error):
                    raise _failure(self.name, part, error) from error
                self._most = count // 2
                log.warning(
                    "the GPU's memory does not hold %d clips of the %s graph: %d at once from now on: %s",
                    count,
                    self.name,
                    self._most,
                    error,
                )
        return joined(parts)

    def _run(self, inputs: dict[str, Input]) -> tuple[NDArray, ...]:
        shapes = {name: value.shape for name, value in inputs.items()}
        batch = n_clips(inputs)
        drawn, arrays, host_s = split_drawn(inputs, keep=self._maker is not None)
        captured, frames = False, 0
        if not self._grid.sees_all:
            frames = bucket(self._grid.frames_for(shapes))
            sizes = self._grid.sizes(batch, frames)
            shapes = {
                name: tuple(sizes[dim] if isinstance(dim, str) else dim for dim in dims)
                for name, _, dims in self._entry.inputs
            }
            captured = batch == 1 and frames <= self.captured_frames
        arrays = {name: padded(array, shapes[name], self._dtypes[name]) for name, array in arrays.items()}
        if captured and frames not in self._buckets:
            self._buckets[frames] = self._make_bucket(shapes)
        place = self._buckets[frames] if captured else self._once(shapes)
        start = time.perf_counter()
        for name, array in arrays.items():
            place.inputs[name].update_inplace(array)
        place.binding.synchronize_inputs()
        copied_s = time.perf_counter() - start
        fixing, making = self._make(drawn, place)
        making_s = host_s + time.perf_counter() - start - copied_s
        try:
            self._session.run_with_iobinding(place.binding, _run_options(self._ort, place.number))
        except Exception as error:
            if not captured:
                raise
            # Also where memory is said to be full: none may be had while a graph is captured. And ONNX Runtime may have
            # kept the part that was captured, under this number.
            log.warning("the %s graph runs without CUDA graphs from now on: %s", self.name, error)
            self.captured_frames, self._buckets = 0, {}
            return self._run(inputs)
        place.binding.synchronize_outputs()
        start = time.perf_counter()
        outputs = dict(zip(self._outputs, (value.numpy() for value in place.binding.get_outputs()), strict=True))
        copied_s += time.perf_counter() - start
        self.transfers.add(n_bytes(arrays) | fixing, n_bytes(outputs), copied_s, making, making_s)
        check_outputs(self._grid, self._entry, shapes, tuple(outputs.values()))
        return tuple(outputs.values())

    def _make(self, drawn: dict[str, Generated], place: _CudaBucket) -> tuple[dict[str, int], dict[str, int]]:
        """Have these inputs in their places: the bytes sent for it and those made."""
        if self._maker is None or not drawn:
            return {}, {}
        device = self._maker.device
        inputs = {name: (place.inputs[name].data_ptr(), place.shapes[name]) for name in drawn}
        with device.lock, device.current():
            made = self._maker.make([Wanted(name, value, *inputs[name]) for name, value in drawn.items()])
            device.synchronize()  # ONNX Runtime computes on a stream of its own
        return made

    def _once(self, shapes: dict[str, Shape]) -> _CudaBucket:
        """Buffers for one run."""
        inputs, binding = {}, self._session.io_binding()
        for name, shape in shapes.items():
            inputs[name] = self._ort.OrtValue.ortvalue_from_shape_and_type(shape, self._dtypes[name].type, _DEVICE, 0)
            binding.bind_ortvalue_input(name, inputs[name])
        for name in self._outputs:
            binding.bind_output(name, _DEVICE, 0)
        return _CudaBucket(binding, inputs, shapes, _PLAIN_RUN)

    def _make_bucket(self, shapes: dict[str, Shape]) -> _CudaBucket:
        """Buffers that stay, the outputs' as ONNX Runtime allocates them in a first run."""
        value = self._ort.OrtValue
        inputs = {
            name: value.ortvalue_from_numpy(np.zeros(shape, self._dtypes[name]), _DEVICE, 0)
            for name, shape in shapes.items()
        }
        first, binding = self._session.io_binding(), self._session.io_binding()
        for name, tensor in inputs.items():
            first.bind_ortvalue_input(name, tensor)
            binding.bind_ortvalue_input(name, tensor)
        for name in self._outputs:
            first.bind_output(name, _DEVICE, 0)
        self._session.run_with_iobinding(first, _run_options(self._ort, _PLAIN_RUN))
        for name, tensor in zip(self._outputs, first.get_outputs(), strict=True):
            binding.bind_ortvalue_output(name, tensor)
        return _CudaBucket(binding, inputs, shapes, str(1 + len(self._buckets)))


def _run_bound(ort: Any, session: Any, arrays: dict[str, NDArray], outputs: list[str]) -> list[NDArray]:
    """A run on arrays that are copied to the device before and from it afterwards."""
    binding = session.io_binding()
    for name, array in arrays.items():
        value = ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), _DEVICE, 0)
        binding.bind_ortvalue_input(name, value)
    for name in outputs:
        binding.bind_output(name, _DEVICE, 0)
    binding.synchronize_inputs()
    session.run_with_iobinding(binding, _run_options(ort, _PLAIN_RUN))
    binding.synchronize_outputs()
    return [value.numpy() for value in binding.get_outputs()]


def _run_options(ort: Any, graph_id: str) -> Any:
    options = ort.RunOptions()
    options.add_run_config_entry("gpu_graph_id", graph_id)
    return options


def _failure(name: str, arrays: Mapping[str, Input], error: Exception) -> ProviderError:
    shapes = ", ".join(f"{tensor} {array.shape}" for tensor, array in arrays.items())
    if _is_out_of_memory(error):
        return _out_of_memory(f"the {name} graph with {shapes}", error)
    return ProviderError(f"the {name} graph failed on the GPU with {shapes}: {error}")


def _is_out_of_memory(error: Exception) -> bool:
    words = str(error).lower()
    return any(sign in words for sign in ("out of memory", "failed to allocate memory", "status_alloc_failed"))


def _out_of_memory(what: str, error: Exception) -> ProviderError:
    return ProviderError(
        f"the GPU is out of memory: {what}: {error}\n"
        "hint: close what else uses it, convert fewer files at once, or use provider='cpu'"
    )
