"""Provider `tensorrt`: engines of the full TensorRT or of TensorRT RTX.

`comosvc-export engines` builds engines; with COMOSVC_BUILD_ENGINES=1 a voice without engines builds them when it is
opened, which takes minutes. ONNX Runtime computes graphs that TensorRT cannot build.
"""

import functools
import hashlib
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ...conversion.calls import Runnable
from ...conversion.shapes import USES, grid_of
from ...errors import EngineError, ProviderError
from ...storage import write_whole
from ...voice.bundle import Bundle
from .. import cuda, sessions
from ..gpu import Device, find_gpu
from ..gpu_source import SourceMaker, make_source_maker
from .build import build_command, builds_when_opened, load_engines, make_logger, parse
from .cache import Plans
from .runner import EngineGraph, LoadedEngine, Scratch
from .target import FLAVOURS, BuildTarget, engine_spec, fitting_targets, library

log = logging.getLogger(__name__)

PRECISIONS = ("fp16", "fp32")


def probe() -> None:
    """Raise `ProviderError` unless an engine is really built and run on the GPU."""
    find_gpu()  # nothing of TensorRT before this: without a driver it may end the process
    _probe_library()


@functools.cache
def _probe_library() -> list[BuildTarget]:
    """Targets whose engines run here, of the first flavour that works."""
    gpu, reasons = find_gpu(), []
    for flavour in FLAVOURS:
        try:
            targets = fitting_targets(flavour, gpu)
            _run_tiny(library(flavour), flavour)
            return targets
        except ProviderError as error:
            reasons.append(str(error))
    raise ProviderError("\n".join(reasons))


def open_graphs(bundle: Bundle, precision: str, threads: int | None, any_use: bool = True) -> dict[str, Runnable]:
    """Every graph of the bundle, ready to run. Raises `NoEnginesError` too, unless `any_use` for engines of streams."""
    find_gpu()
    targets = _probe_library()
    flavour = targets[0].flavour
    specs = [engine_spec(bundle, target, precision) for target in targets]
    plans = load_engines(bundle, specs, builds_when_opened(), any_use)
    one_clip = {use: specs[0].profiles[use] for use in USES if USES[use].batch[-1] == 1}
    trt, device = library(flavour), Device()
    maker = make_source_maker(device)
    entries = bundle.manifest.entries(precision)
    graphs: dict[str, Runnable] = {}
    with device.lock, device.current():
        said = make_logger(trt)
        runtime = trt.Runtime(said)
        engines = {name: _deserialize(runtime, said, name, plan) for name, plan in plans.plans.items()}
        fewer = f"rm -r {plans.folder}; {build_command(bundle, replace(specs[0], profiles=one_clip))}"
        scratch = _scratch(device, engines.values(), fewer)
        for name, engine in engines.items():
            grid = grid_of(bundle.manifest, name)
            loaded = replace(_loaded(trt, flavour, name, engine, plans, grid.sees_all), build_all=plans.build_all)
            graphs[name] = EngineGraph(name, entries[name], grid, loaded, device, scratch, maker)
    for name, why in plans.record.not_built.items():
        graphs[name] = _by_onnx_runtime(bundle, name, precision, threads, maker, why)
    return graphs


def _deserialize(runtime: Any, said: Any, name: str, plan: Any) -> Any:
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise EngineError(
            f"TensorRT does not take the engine of {name}: {said.errors()}\n"
            "hint: comosvc-export engines BUNDLE --rebuild"
        )
    return engine


def _scratch(device: Device, engines: Any, fewer: str) -> Scratch:
    """Memory for the profile that needs most. `fewer`: the commands that replace the engines by smaller ones."""
    n_bytes = max(
        engine.get_device_memory_size_for_profile_v2(index)
        for engine in engines
        for index in range(engine.num_optimization_profiles)
    )
    try:
        return Scratch(device.allocate(max(1, n_bytes)), n_bytes)
    except ProviderError as error:
        raise ProviderError(
            f"the engines' scratch memory: {error}\nor take engines for fewer clips at once: {fewer}"
        ) from error


def _loaded(trt: Any, flavour: str, name: str, engine: Any, plans: Plans, any_length: bool) -> LoadedEngine:
    """`any_length`: calls are not padded to buckets, so that lengths seldom repeat."""
    profiles = {use: graphs[name] for use, graphs in plans.record.profiles.items()}
    own_memory = trt.ExecutionContextAllocationStrategy.USER_MANAGED
    if flavour == "tensorrt":
        return LoadedEngine(profiles, lambda: engine.create_execution_context(own_memory), True, record=plans.record)
    config = engine.create_runtime_config()
    config.set_execution_context_allocation_strategy(own_memory)
    # RTX compiles kernels for the shapes that it meets, and captures graphs itself.
    config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    # By default RTX compiles kernels for a shape in the background, and computes with others meanwhile: the same call
    # twice would differ.
    strategy = trt.DynamicShapesKernelSpecializationStrategy
    config.dynamic_shapes_kernel_specialization_strategy = strategy.NONE if any_length else strategy.EAGER
    keep = _kept_kernels(config, plans.folder, name)
    return LoadedEngine(profiles, lambda: engine.create_execution_context(config), False, keep, plans.record)


def _kept_kernels(config: Any, folder: Path, name: str) -> Callable[[], None]:
    """Give RTX the kernels that it compiled before. Returns a function that stores new ones.

    They are code, as plans are (see `cache`): a file holds a SHA-256 over fingerprint, graph and kernels, then the
    kernels, and is not used unless the hash fits.
    """
    cache, path = config.create_runtime_cache(), folder / f"{name}.kernels"
    if (kernels := _read_kernels(path)) is not None:
        cache.deserialize(kernels)  # False for another GPU or driver: it compiles them again
    config.set_runtime_cache(cache)

    def keep() -> None:
        kernels = bytes(cache.serialize())
        try:
            write_whole(path, _kernels_hash(path, kernels) + kernels)
        except OSError as error:
            log.info("compiled kernels are not kept: %s", error)

    return keep


def _read_kernels(path: Path) -> bytes | None:
    """The kernels in a file; None where it is missing, or not as it was written."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        log.warning("compiled kernels cannot be read, and are compiled again: %s", error)
        return None
    size = hashlib.sha256().digest_size
    if data[:size] != _kernels_hash(path, data[size:]):
        log.warning("%s is not what was written there: its kernels are not used, and compiled again", path)
        return None
    return data[size:]


def _kernels_hash(path: Path, kernels: bytes) -> bytes:
    """SHA-256 of the engines' fingerprint, the graph and its kernels."""
    return hashlib.sha256(f"{path.parent.name}/{path.name}/".encode() + kernels).digest()


def _by_onnx_runtime(
    bundle: Bundle, name: str, precision: str, threads: int | None, maker: SourceMaker | None, why: str
) -> Runnable:
    entry = bundle.manifest.entries(precision)[name]
    try:
        cuda.probe()
        graph, where = cuda.open_graph(bundle, name, entry, threads, maker), "the GPU"
    except ProviderError:
        graph, where = sessions.open_graph(bundle, name, bundle.manifest.graphs[name], threads), "the CPU"
    log.warning("the %s graph has no engine and runs in ONNX Runtime on %s: %s", name, where, why)
    return graph


def _run_tiny(trt: Any, flavour: str) -> None:
    """Build an engine of one addition and run it."""
    said = make_logger(trt)
    builder = trt.Builder(said)
    if not builder:
        raise ProviderError(f"{FLAVOURS[flavour]} {trt.__version__} gives no builder: {said.errors()}")
    network, parser = parse(trt, builder, "test", cuda.TINY, said)
    plan = builder.build_serialized_network(network, builder.create_builder_config())
    del parser
    if plan is None:
        raise ProviderError(f"{FLAVOURS[flavour]} {trt.__version__} builds nothing here: {said.errors()}")
    device = Device()
    x, y = np.arange(4, dtype=np.float32), np.zeros(4, np.float32)
    with device.current():
        engine = _deserialize(trt.Runtime(said), said, "test", plan)
        context = engine.create_execution_context()
        addresses = {name: device.allocate(x.nbytes) for name in "xy"}
        for name, address in addresses.items():
            context.set_tensor_address(name, address)
        device.upload(addresses["x"], x)
        ran = context.execute_async_v3(device.stream)
        device.download(y, addresses["y"])
        device.synchronize()
        del context, engine
    device.close()
    if not ran or not np.array_equal(y, 2.0 * x):
        raise ProviderError(f"{FLAVOURS[flavour]} {trt.__version__} computes wrongly: {x} + {x} gave {y}")
