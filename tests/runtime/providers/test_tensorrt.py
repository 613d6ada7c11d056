"""Does the installed TensorRT have everything that is asked of it? Its objects exist on no machine without a GPU."""

import ast
from importlib.util import find_spec
from pathlib import Path

import pytest

from comosvc.runtime import ProviderError, device, engine, engine_runner
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
    for module in (engine, engine_runner, tensorrt):
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
