"""Runs TensorRT engines: one stream, buffers allocated once, lengths padded to buckets, a captured graph for each.

A bucket is a batch and a length. It has an execution context of its own, since a captured graph must not outlive the
shapes of the context it came from; all contexts share one scratch memory, which one stream makes safe.

Memory is allocated, on the device and pinned on the host, when a profile, which holds many buckets, is first used; a
new bucket brings what its context and graph hold, and a source longer than any before makes `SourceMaker` grow. After
that a call allocates nothing but the arrays that it returns. Whatever the GPU holds is freed with the `Device`.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...conversion.generated import Input
from ...conversion.processes import keep_in_forks
from ...conversion.shapes import USES, LengthGrid, LengthRange, Shape, bucket, check_outputs, input_shapes
from ...errors import ProviderError
from ...voice.manifest import GraphEntry
from ..gpu import Device
from ..gpu_source import SourceMaker, Wanted
from ..transfers import Transfers, clips_of, fill, joined, n_bytes, n_clips, split_drawn
from .cache import EngineRecord

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scratch:
    """Device memory that the contexts of all engines compute in, one after the other."""

    address: int
    n_bytes: int


@dataclass
class _Buffers:
    """Memory of one profile for its largest shapes: addresses on the device, and host memory to copy through."""

    addresses: dict[str, int] = field(default_factory=dict)
    host: dict[str, NDArray[np.uint8]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Bucket:
    context: Any
    buffers: _Buffers
    inputs: dict[str, Shape]
    outputs: dict[str, Shape]
    graph: Any


@dataclass(frozen=True)
class LoadedEngine:
    """An engine in memory.

    `open_context` makes an execution context whose scratch memory is the caller's. `captures`: a graph of each bucket
    is to be captured, which RTX does by itself. `prepared` is called when a context has run for the first time.
    """

    profiles: Mapping[str, Mapping[str, LengthRange]]
    open_context: Callable[[], Any]
    captures: bool
    prepared: Callable[[], object] = lambda: None
    record: EngineRecord | None = None
    """Of the build."""
    build_all: str = "comosvc-export engines BUNDLE"
    """The command that builds engines for every use."""


class EngineGraph:
    """One graph of a voice as a TensorRT engine. May be called from several threads; they take turns.

    `maker` makes what a formula gives where the engine reads it; without one the host does, and sends it.
    """

    takes_generated = True

    def __init__(
        self,
        name: str,
        entry: GraphEntry,
        grid: LengthGrid,
        loaded: LoadedEngine,
        device: Device,
        scratch: Scratch,
        maker: SourceMaker | None = None,
    ) -> None:
        self.name, self.transfers, self._maker = name, Transfers(), maker
        self._entry, self._grid, self._loaded, self._device, self._scratch = entry, grid, loaded, device, scratch
        self.record, self._captures = loaded.record, loaded.captures
        self._profiles = {use: loaded.profiles[use] for use in USES if use in loaded.profiles}
        self._index = {use: index for index, use in enumerate(loaded.profiles)}
        self._dtypes = {tensor: np.dtype(dtype) for tensor, dtype, _ in (*entry.inputs, *entry.outputs)}
        self._buffers: dict[str, _Buffers] = {}
        self._buckets: dict[tuple[str, int, int], _Bucket] = {}
        self._whole: dict[str, tuple[tuple[str, int, int], _Bucket]] = {}
        """By use, the last call of a graph that hears everything at once."""
        self._unprepared = False
        keep_in_forks(self)
        with device.current():
            self._events = [device.event() for _ in range(5)]

    def run(self, inputs: dict[str, Input], /) -> tuple[NDArray, ...]:
        """Outputs in the order of the manifest, as long as the bucket. `inputs` may hold more than the graph takes."""
        taken = {name: inputs[name] for name, _, _ in self._entry.inputs}
        most = max(ranges["B"].most for ranges in self._profiles.values())
        with self._device.lock, self._device.current():
            return joined([self._run_part(clips_of(taken, first, most)) for first in range(0, n_clips(taken), most)])

    def _run_part(self, inputs: dict[str, Input]) -> tuple[NDArray, ...]:
        batch = n_clips(inputs)
        place = self._bucket_for(inputs, batch)
        buffers, device, (start, copied, made, computed, end) = place.buffers, self._device, self._events
        drawn, arrays, host_s = split_drawn(inputs, keep=self._maker is not None)
        sent, outputs = dict[str, NDArray](), dict[str, NDArray]()
        device.record(start)
        for name, array in arrays.items():
            sent[name] = _view(buffers.host[name], place.inputs[name], self._dtypes[name])
            fill(sent[name], array)
            device.upload(buffers.addresses[name], sent[name])
        device.record(copied)
        fixing, making = dict[str, int](), dict[str, int]()
        if self._maker is not None:
            wanted = [Wanted(name, value, buffers.addresses[name], place.inputs[name]) for name, value in drawn.items()]
            fixing, making = self._maker.make(wanted)
        device.record(made)
        if place.graph is None:
            self._execute(place.context)
        else:
            device.launch(place.graph)
        device.record(computed)
        for name, shape in place.outputs.items():
            outputs[name] = _view(buffers.host[name], shape, self._dtypes[name])
            device.download(outputs[name], buffers.addresses[name])
        device.record(end)
        device.synchronize()
        if self._unprepared:
            self._unprepared = False
            self._loaded.prepared()
        copying_ms = device.elapsed_ms(start, copied) + device.elapsed_ms(computed, end)
        making_s = host_s + 1e-3 * device.elapsed_ms(copied, made)
        self.transfers.add(n_bytes(sent) | fixing, n_bytes(outputs), 1e-3 * copying_ms, making, making_s)
        check_outputs(self._grid, self._entry, place.inputs, tuple(outputs.values()))
        return tuple(staged[:batch].copy() for staged in outputs.values())

    def _bucket_for(self, inputs: Mapping[str, Input], batch: int) -> _Bucket:
        """The bucket that holds these inputs, made ready if it is new."""
        shapes = {name: value.shape for name, value in inputs.items()}
        if self._grid.sees_all:
            length, sizes = shapes["audio"][1], {"B": batch, "N": shapes["audio"][1]}
        else:
            length = bucket(self._grid.frames_for(shapes))
            sizes = self._grid.sizes(bucket(batch), length)
        use = self._use_for(sizes)
        key = use, sizes["B"], length
        if self._grid.sees_all:  # any length may come: one context takes the shapes of each, and no warm-up pays
            last, bound = self._whole.get(use, (None, None))
            if last != key:
                self._unprepared |= bound is None
                context = self._context(use) if bound is None else bound.context
                self._whole[use] = key, self._bind(context, use, sizes)
            return self._whole[use][1]
        if key not in self._buckets:
            self._buckets[key] = self._warm_up(self._bind(self._context(use), use, sizes))
        return self._buckets[key]

    def _use_for(self, sizes: Mapping[str, int]) -> str:
        for use, ranges in self._profiles.items():
            if all(ranges[letter].least <= sizes[letter] <= ranges[letter].most for letter in ranges):
                return use
        built = "; ".join(
            f"{use}: " + ", ".join(f"{letter} {r.least}-{r.most}" for letter, r in ranges.items())
            for use, ranges in self._profiles.items()
        )
        missing = ", ".join(use for use in USES if use not in self._profiles)
        raise ProviderError(
            f"the engine of {self.name} was not built for {', '.join(f'{k} {v}' for k, v in sizes.items())} ({built})"
            + (f"; there is none for {missing}\nhint: {self._loaded.build_all}" if missing else "")
        )

    def _bind(self, context: Any, use: str, sizes: Mapping[str, int]) -> _Bucket:
        """`context` at these sizes, with its memory."""
        if use not in self._buffers:
            self._buffers[use] = self._allocate(use, context)
        buffers = self._buffers[use]
        shapes = {
            name: tuple(sizes[dim] if isinstance(dim, str) else dim for dim in dims)
            for name, _, dims in self._entry.inputs
        }
        outputs = self._set_shapes(context, shapes)
        for name, address in buffers.addresses.items():
            self._expect(context.set_tensor_address(name, address), f"take an address for {name}")
        return _Bucket(context, buffers, shapes, outputs, None)

    def _warm_up(self, made: _Bucket) -> _Bucket:
        """`made`, run once and then captured: what new shapes cost is paid in that run, and cannot be captured."""
        for name, shape in made.inputs.items():
            staged = _view(made.buffers.host[name], shape, self._dtypes[name])
            staged.fill(0)  # not what the memory held: an index would point anywhere
            self._device.upload(made.buffers.addresses[name], staged)
        self._execute(made.context)
        self._device.synchronize()
        self._loaded.prepared()
        if not self._captures:
            return made
        try:
            return replace(made, graph=self._device.capture(lambda: self._execute(made.context)))
        except ProviderError as error:
            log.warning("the engine of %s runs without CUDA graphs from now on: %s", self.name, error)
            self._captures = False
            return made

    def _context(self, use: str) -> Any:
        context = self._loaded.open_context()
        if context is None:
            raise ProviderError(f"TensorRT gives no execution context for {self.name}: is the GPU's memory full?")
        index = self._index[use]
        self._expect(context.set_optimization_profile_async(index, self._device.stream), f"take profile {use}")
        context.set_device_memory(self._scratch.address, self._scratch.n_bytes)
        return context

    def _set_shapes(self, context: Any, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
        """Set the inputs' shapes; returns the outputs'."""
        for name, shape in shapes.items():
            self._expect(context.set_input_shape(name, shape), f"take {name} {shape}")
        try:
            missing = context.infer_shapes()
        except RuntimeError as error:
            raise ProviderError(f"the engine of {self.name} does not take {dict(shapes)}: {error}") from error
        if missing:
            raise ProviderError(f"TensorRT knows too little of {', '.join(missing)} of the {self.name} graph")
        return {name: tuple(context.get_tensor_shape(name)) for name, _, _ in self._entry.outputs}

    def _allocate(self, use: str, context: Any) -> _Buffers:
        """Memory for the largest shapes of a profile, which all its buckets share."""
        largest = {name: most for name, (_, _, most) in input_shapes(self._entry, self._profiles[use]).items()}
        largest |= {name: () for name, _, dims in self._entry.inputs if not dims}
        largest |= self._set_shapes(context, largest)
        buffers = _Buffers()
        for name, shape in largest.items():
            n_bytes = max(1, int(np.prod(shape))) * self._dtypes[name].itemsize
            buffers.addresses[name] = self._device.allocate(n_bytes)
            buffers.host[name] = self._device.pinned(n_bytes)
        return buffers

    def _execute(self, context: Any) -> None:
        self._expect(context.execute_async_v3(self._device.stream), "run")

    def _expect(self, done: bool, what: str) -> None:
        if not done:
            raise ProviderError(f"the engine of {self.name} does not {what}\nhint: comosvc-doctor --provider tensorrt")


def _view(memory: NDArray[np.uint8], shape: Shape, dtype: np.dtype) -> NDArray[Any]:
    n_bytes = int(np.prod(shape)) * dtype.itemsize
    return memory[:n_bytes].view(dtype).reshape(shape)
