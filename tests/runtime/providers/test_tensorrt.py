"""Does the installed TensorRT have everything that is asked of it? Its objects exist on no machine without a GPU."""

import ast
import contextlib
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_bundle import write_folder

from comosvc.runtime import ProviderError, device, engine, engine_runner, engine_target
from comosvc.runtime.bundle import open_bundle
from comosvc.runtime.engine_target import Target
from comosvc.runtime.errors import EngineError
from comosvc.runtime.gpu import Gpu
from comosvc.runtime.providers import tensorrt

trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT RTX is not installed")

COMMON = {
    "trt": (None,),
    "builder": ("Builder",),
    "network": ("INetworkDefinition",),
    "parser": ("OnnxParser",),
    "limits": ("IOptimizationProfile",),
    "runtime": ("Runtime",),
    "engine": ("ICudaEngine",),
    "context": ("IExecutionContext",),
    "config": ("IBuilderConfig", "IRuntimeConfig"),
    "cache": ("ITimingCache", "IRuntimeCache"),
    "plan": ("IHostMemory",),
    "e": ("ParserError",),
}
"""What a variable of that name is: classes of the module, None for the module itself."""


RTX_ONLY = {
    ("IBuilderConfig", "num_compute_capabilities"),
    ("IBuilderConfig", "set_compute_capability"),
    ("IRuntimeConfig", "create_runtime_cache"),
    ("IRuntimeConfig", "set_runtime_cache"),
    ("IRuntimeConfig", "cuda_graph_strategy"),
    ("IRuntimeConfig", "dynamic_shapes_kernel_specialization_strategy"),
    (None, "IRuntimeCache"),
    (None, "ComputeCapability"),
    (None, "CudaGraphStrategy"),
    (None, "DynamicShapesKernelSpecializationStrategy"),
}
"""Of the names that are used, those that the bindings of the full TensorRT 10.12 and 10.16 do not hold."""


def used(source):
    """(name, attribute) of every `name.attribute`, and of `name.self_attribute.attribute` for enumerations."""
    tree = ast.parse(Path(source).read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in COMMON:
            yield node.value.id, node.attr
        if isinstance(node, ast.Attribute) and ast.unparse(node.value).startswith("trt."):
            yield ast.unparse(node.value), node.attr


def test_every_attribute_that_is_used_exists():
    seen = set()
    for module in (engine, engine_target, engine_runner, tensorrt):
        for name, attribute in used(module.__file__):
            seen.add((name, attribute))
            if name.startswith("trt."):
                owner = trt
                for part in name.split(".")[1:]:
                    owner = getattr(owner, part)
                assert hasattr(owner, attribute), f"{name}.{attribute}"
            else:
                owners = [trt if kind is None else getattr(trt, kind) for kind in COMMON[name]]
                assert any(hasattr(owner, attribute) for owner in owners), f"{name}.{attribute} of {COMMON[name]}"
    assert {("context", "execute_async_v3"), ("trt.BuilderFlag", "TF32"), ("engine", "create_runtime_config")} <= seen
    assert len(seen) > 40


def test_the_check_above_can_fail(tmp_path):
    source = tmp_path / "x.py"
    source.write_text("context.celebrate()\ntrt.BuilderFlag.FP16\n")
    assert set(used(source)) == {("context", "celebrate"), ("trt", "BuilderFlag"), ("trt.BuilderFlag", "FP16")}
    assert not hasattr(trt.IExecutionContext, "celebrate")
    assert not hasattr(trt.BuilderFlag, "FP16")


def test_the_full_tensorrt_is_not_asked_for_what_only_rtx_has(monkeypatch, files, tmp_path):
    """A real parse and a real configuration, as far as a build gets without a GPU."""
    bundle = open_bundle(write_folder(tmp_path / "voice", files), tmp_path)
    target = Target("tensorrt", "10.12.0.36", "Test Hopper", ("9.0",))
    spec = engine_target.engine_spec(bundle, target, "fp32", ("stream",))
    removed = {(kind, name) for kind, name in RTX_ONLY if hasattr(trt if kind is None else getattr(trt, kind), name)}
    assert len(removed) > 5
    for kind, name in sorted(removed, key=str, reverse=True):
        monkeypatch.delattr(trt if kind is None else getattr(trt, kind), name)
    entry, progress = bundle.manifest.graphs["acoustic"], []
    model = bundle.graph_bytes("acoustic")
    with contextlib.suppress(EngineError):  # what it says with no GPU to build for
        engine._build(trt, "acoustic", entry, model, spec, tmp_path / "timing", lambda *told: progress.append(told))
    assert progress, "it came to the build"
    opened = []
    plans = SimpleNamespace(record=SimpleNamespace(profiles={"stream": {"acoustic": {}}}))
    older = SimpleNamespace(create_execution_context=opened.append)
    loaded = tensorrt._loaded(trt, "tensorrt", "acoustic", older, plans, any_length=False)
    loaded.open_context()
    assert opened == [trt.ExecutionContextAllocationStrategy.USER_MANAGED]
    assert loaded.captures


@pytest.mark.skipif(find_spec("cuda.bindings") is None, reason="cuda-bindings is not installed")
def test_every_driver_function_that_is_called_exists():
    from cuda.bindings import driver

    names = {
        node.value
        for node in ast.walk(ast.parse(Path(device.__file__).read_text("utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("cu")
    }
    names = {name for name in names if name[2:3].isupper()}
    assert len(names) > 15
    for name in names:
        assert callable(getattr(driver, name)), name
    assert driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY.name == device._OUT_OF_MEMORY
    assert driver.CUstream_flags.CU_STREAM_NON_BLOCKING
    assert driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL


def test_a_gpu_that_no_flavour_serves_is_told_of_each(monkeypatch):
    hopper = Gpu("Test Hopper", "9.0", 80 << 30, (13, 0))
    monkeypatch.setattr(tensorrt, "find_gpu", lambda: hopper)
    tensorrt._probe_library.cache_clear()
    with pytest.raises(ProviderError, match=r"(?s)tensorrt cannot be imported.*RTX .* has no code for Test Hopper"):
        tensorrt.probe()


def test_engines_that_are_too_hungry_name_those_that_are_less():
    def allocate(n_bytes):
        raise ProviderError(f"the GPU is out of memory: cuMemAlloc asked for {n_bytes / 1e6:.0f} MB")

    needs = SimpleNamespace(
        num_optimization_profiles=2, get_device_memory_size_for_profile_v2=[10**6, 10**9].__getitem__
    )
    with pytest.raises(
        ProviderError, match=r"asked for 1000 MB\nor take engines for fewer clips at once: the command$"
    ):
        tensorrt._scratch(SimpleNamespace(allocate=allocate), [needs], "the command")


@pytest.mark.parametrize(("any_length", "strategy"), [(False, "EAGER"), (True, "NONE")])
def test_no_kernel_of_rtx_is_replaced_between_two_calls(tmp_path, any_length, strategy):
    """LAZY, its default, does."""
    config = SimpleNamespace(
        set_execution_context_allocation_strategy=lambda _: None,
        create_runtime_cache=Cache,
        set_runtime_cache=lambda _: None,
    )
    plans = SimpleNamespace(record=SimpleNamespace(profiles={}), folder=tmp_path)
    engine = SimpleNamespace(create_runtime_config=lambda: config)
    tensorrt._loaded(trt, "rtx", "content", engine, plans, any_length)
    assert config.dynamic_shapes_kernel_specialization_strategy.name == strategy


class Cache:
    """As RTX's, of the kernels that it "compiled"."""

    def __init__(self, compiled=b"kernels"):
        self.seen, self._compiled = [], compiled

    def deserialize(self, kernels):
        self.seen.append(kernels)
        return True

    def serialize(self):
        return memoryview(self._compiled)


def kept_kernels(folder, name, compiled=b"kernels"):
    """What a cache is given when a graph of that folder is opened, and what keeps its kernels."""
    cache, used = Cache(compiled), []
    config = SimpleNamespace(create_runtime_cache=lambda: cache, set_runtime_cache=used.append)
    keep = tensorrt._kept_kernels(config, folder, name)
    assert used == [cache]
    return cache.seen, keep


def test_kernels_are_kept_and_found_again(tmp_path):
    seen, keep = kept_kernels(tmp_path, "vocoder")
    assert not seen
    keep()
    seen, keep = kept_kernels(tmp_path, "vocoder", b"more kernels")
    assert seen == [b"kernels"]
    keep()
    assert kept_kernels(tmp_path, "vocoder")[0] == [b"more kernels"]
    assert [path.name for path in tmp_path.iterdir()] == ["vocoder.kernels"]


def _cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def _without_hash(path):
    path.write_bytes(b"kernels")


def _of_another_graph(path):
    kept_kernels(path.parent, "acoustic", b"others")[1]()
    path.write_bytes((path.parent / "acoustic.kernels").read_bytes())


def _of_other_engines(path):
    other = path.parent.parent / "another fingerprint"
    other.mkdir()
    kept_kernels(other, "vocoder", b"others")[1]()
    path.write_bytes((other / path.name).read_bytes())


def _empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("harm", [_cut, _without_hash, _of_another_graph, _of_other_engines, _empty])
def test_kernels_that_are_not_what_was_written_are_compiled_again(tmp_path, caplog, harm):
    folder = tmp_path / "fingerprint"
    folder.mkdir()
    kept_kernels(folder, "vocoder")[1]()
    harm(folder / "vocoder.kernels")
    seen, keep = kept_kernels(folder, "vocoder")
    assert not seen, "code was deserialized that nobody here wrote"
    assert "vocoder.kernels is not what was written there" in caplog.text
    keep()
    assert kept_kernels(folder, "vocoder")[0] == [b"kernels"]
