"""Provider `tensorrt`: attributes of the installed TensorRT, whose objects need a GPU; kept kernels; opened voices."""

import ast
import contextlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from gpu_double import Context, HostDevice
from tiny_bundle import write_folder

from comosvc.runtime import Converter, ProviderError
from comosvc.runtime.errors import EngineError
from comosvc.runtime.providers import tensorrt
from comosvc.runtime.providers.gpu import Gpu
from comosvc.runtime.providers.tensorrt import build as engine
from comosvc.runtime.providers.tensorrt import runner as engine_runner
from comosvc.runtime.providers.tensorrt import target as engine_target
from comosvc.runtime.providers.tensorrt.cache import Plans
from comosvc.runtime.providers.tensorrt.target import BuildTarget
from comosvc.runtime.voice.bundle import open_bundle

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
    assert not hasattr(trt.IExecutionContext, "celebrate")  # so the check can fail


def test_the_full_tensorrt_is_not_asked_for_what_only_rtx_has(monkeypatch, files, tmp_path):
    """A real parse and a real configuration, as far as a build gets without a GPU."""
    bundle = open_bundle(write_folder(tmp_path / "voice", files), tmp_path)
    target = BuildTarget("tensorrt", "10.12.0.36", "Test Hopper", ("9.0",))
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


def test_a_gpu_that_no_flavour_serves_is_told_of_each(monkeypatch):
    hopper = Gpu("Test Hopper", "9.0", 80 << 30, (13, 0))
    monkeypatch.setattr(tensorrt, "find_gpu", lambda: hopper)
    tensorrt._probe_library.cache_clear()
    with pytest.raises(ProviderError, match=r"(?s)tensorrt cannot be imported.*RTX .* has no code for Test Hopper"):
        tensorrt.probe()


class Cache:
    """As RTX's runtime cache, with the given kernels "compiled"."""

    def __init__(self, compiled=b"kernels"):
        self.seen, self._compiled = [], compiled

    def deserialize(self, kernels):
        self.seen.append(kernels)
        return True

    def serialize(self):
        return memoryview(self._compiled)


def runtime_config(cache=None):
    """As RTX's runtime configuration."""
    used = []
    return SimpleNamespace(
        set_execution_context_allocation_strategy=lambda _: None,
        create_runtime_cache=lambda: cache or Cache(),
        set_runtime_cache=used.append,
        used=used,
    )


@pytest.mark.parametrize(("any_length", "strategy"), [(False, "EAGER"), (True, "NONE")])
def test_no_kernel_of_rtx_is_replaced_between_two_calls(tmp_path, any_length, strategy):
    """As it is with LAZY, the default."""
    config, plans = runtime_config(), SimpleNamespace(record=SimpleNamespace(profiles={}), folder=tmp_path)
    engine = SimpleNamespace(create_runtime_config=lambda: config)
    tensorrt._loaded(trt, "rtx", "content", engine, plans, any_length)
    assert config.dynamic_shapes_kernel_specialization_strategy.name == strategy


def kept_kernels(folder, name, compiled=b"kernels"):
    """Kernels given to the cache when a graph of that folder is opened, and the function that stores its kernels."""
    cache = Cache(compiled)
    config = runtime_config(cache)
    keep = tensorrt._kept_kernels(config, folder, name)
    assert config.used == [cache]
    return cache.seen, keep


def test_kernels_are_kept_and_found_again(tmp_path):
    for compiled, found in ((b"kernels", []), (b"more kernels", [b"kernels"]), (b"", [b"more kernels"])):
        seen, keep = kept_kernels(tmp_path, "vocoder", compiled)
        assert seen == found
        keep()
    assert [path.name for path in tmp_path.iterdir()] == ["vocoder.kernels"]


def of_another(path):
    """The kernels of the file's name in another place: of another graph, or of other engines."""

    def harm(target):
        other = target.parent / path
        other.parent.mkdir(exist_ok=True)
        kept_kernels(other.parent, other.stem, b"others")[1]()
        return other.read_bytes()

    return harm


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.read_bytes()[:-1],
        lambda path: b"kernels",
        lambda path: b"",
        of_another("acoustic.kernels"),
        of_another("../another fingerprint/vocoder.kernels"),
    ],
)
def test_kernels_that_differ_from_the_stored_ones_are_compiled_again(tmp_path, caplog, harm):
    folder = tmp_path / "fingerprint"
    folder.mkdir()
    kept_kernels(folder, "vocoder")[1]()
    path = folder / "vocoder.kernels"
    path.write_bytes(harm(path))
    seen, keep = kept_kernels(folder, "vocoder")
    assert not seen, "code of unknown origin was deserialized"
    assert "vocoder.kernels is not what was written there" in caplog.text
    keep()
    assert kept_kernels(folder, "vocoder")[0] == [b"kernels"]


@pytest.fixture
def engines(bundle_path, monkeypatch, tmp_path):
    """Engines of the tiny voice that the double runs, pitch excepted, in the library's place."""
    bundle, host = open_bundle(bundle_path), HostDevice()
    target = BuildTarget("rtx", trt.__version__, None, ("8.9",))
    profiles = engine_target.engine_spec(bundle, target, "fp32").profiles

    def deserialize(plan):
        name = plan.decode()
        of_graph = {use: own[name] for use, own in profiles.items()}
        return SimpleNamespace(
            num_optimization_profiles=3,
            get_device_memory_size_for_profile_v2=lambda index: 100 * index,
            create_runtime_config=runtime_config,
            create_execution_context=lambda _: Context(host, bundle, name, of_graph),
        )

    names = [name for name in bundle.manifest.graphs if name != "pitch"]
    record = SimpleNamespace(profiles=profiles, not_built={"pitch": "it has an operator that is unknown"})
    plans = Plans(tmp_path, record, {name: name.encode() for name in names}, "the command")
    library = SimpleNamespace(
        **{**vars(trt), "Runtime": lambda _: SimpleNamespace(deserialize_cuda_engine=deserialize)}
    )
    monkeypatch.setattr(tensorrt, "find_gpu", lambda: None)
    monkeypatch.setattr(tensorrt, "_probe_library", lambda: [target])
    monkeypatch.setattr(tensorrt, "load_engines", lambda *_: plans)
    monkeypatch.setattr(tensorrt, "library", lambda _: library)
    monkeypatch.setattr(tensorrt, "Device", lambda: host)
    monkeypatch.setattr(tensorrt, "make_source_maker", lambda _: None)
    return host


def test_a_voice_opens_on_its_engines_and_without_one_in_onnx_runtime(engines, bundle_path, song, tmp_path, caplog):
    with Converter(bundle_path, provider="cpu") as converter:
        wanted = converter.convert(song, 24_000).audio
    with Converter(bundle_path, provider="tensorrt", precision="fp32") as converter:
        found = converter.convert(song, 24_000).audio
        assert {name for name in converter.transfers} == {"content", "acoustic", "acoustic_n", "vocoder"}
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    assert "the pitch graph has no engine and runs in ONNX Runtime on the CPU: it has an operator" in caplog.text
    assert {"content.kernels", "vocoder.kernels"} <= {path.name for path in tmp_path.iterdir()}


def test_engines_that_find_no_memory_are_told_so(engines, bundle_path, monkeypatch, tmp_path):
    def allocate(n_bytes):
        raise ProviderError(f"the GPU is out of memory: cuMemAlloc asked for {n_bytes} bytes")

    monkeypatch.setattr(engines, "allocate", allocate)
    wanted = rf"(?s)asked for 200 bytes.*fewer clips at once: rm -r {tmp_path}; .*--profile stream,clip$"
    with pytest.raises(ProviderError, match=wanted):
        Converter(bundle_path, provider="tensorrt", precision="fp32")
