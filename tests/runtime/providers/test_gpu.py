"""The GPU: its detection, with a C library in place of the driver; `Device`, with a recorder; NVRTC; the doctor."""

import ast
import enum
import gc
import itertools
import sys
import threading
from ctypes.util import find_library
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
from gpu_double import TEST_GPU, in_process, library, why_not

from comosvc.runtime import ProviderError
from comosvc.runtime.cli import doctor
from comosvc.runtime.errors import install
from comosvc.runtime.providers import gpu as module
from comosvc.runtime.providers import gpu_source
from comosvc.runtime.providers.gpu import GPU_LOCK, Device, Gpu, compile_cuda, find_gpu
from comosvc.runtime.providers.sessions import installed_wheels

HAS_GPU = why_not(find_gpu) is None
DRIVER = """
typedef int Result;
Result cuInit(unsigned flags) {{ return {init}; }}
Result cuDeviceGetCount(int *n) {{ *n = {count}; return 0; }}
Result cuDeviceGet(int *device, int index) {{ *device = index; return 0; }}
Result cuDriverGetVersion(int *version) {{ *version = 13020; return 0; }}
Result cuDeviceGetName(char *name, int length, int device) {{ __builtin_strncpy(name, "Test GPU", length); return 0; }}
Result {memory}(unsigned long *bytes, int device) {{ *bytes = 3ul << 30; return 0; }}
Result cuDeviceGetAttribute(int *value, int attribute, int device) {{ *value = attribute == 75 ? 8 : 9; return 0; }}
Result cuGetErrorName(int error, const char **name) {{ *name = "CUDA_ERROR_OF_THE_TEST"; return 0; }}
"""


def driver(init=0, count=1, memory="cuDeviceTotalMem_v2"):
    return DRIVER.format(init=init, count=count, memory=memory)


FIND = """
from comosvc.runtime.providers.gpu import find_gpu
try:
    print(repr(find_gpu()))
except Exception as e:
    print(repr(e))
"""
DOCTOR = "from comosvc.runtime.cli.doctor import main\nmain()"
PROVIDER_OF = "from comosvc.runtime import Converter\nprint(Converter(threads=1).provider)"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (driver(), repr(Gpu("Test GPU", "8.9", 3 << 30, (13, 2)))),
        (driver(init=100, count=0), "ProviderError('there is an NVIDIA driver but no GPU"),
        (driver(count=0), "ProviderError('there is an NVIDIA driver but no GPU"),
        (driver(init=804), "ProviderError('the NVIDIA driver does not work: cuInit gave CUDA_ERROR_OF_THE_TEST"),
        (driver(memory="cuDeviceTotalMem"), "is too old: libcuda.so.1 has no cuDeviceTotalMem_v2"),
    ],
)
def test_the_gpu_or_the_fault_of_the_driver_is_found(tmp_path, source, words):
    done = in_process(FIND, library(tmp_path, source))
    assert words in done.stdout, done.stderr


def test_a_driver_that_lies_does_not_end_the_process(tmp_path):
    """It counts a GPU and can do nothing else: every error of the engines becomes a reason, and `auto` goes on."""
    done = in_process(PROVIDER_OF, library(tmp_path, driver()))
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("cpu\n")


# --- NVRTC


needs_nvrtc = pytest.mark.skipif((no := why_not(lambda: compile_cuda(b"", "a.cu", "8.0"))) is not None, reason=f"{no}")


@needs_nvrtc
@pytest.mark.parametrize("capability", ["7.5", "8.0", "8.9", "9.0", "10.0", "12.0"])
def test_the_kernels_compile_for_every_gpu(capability):
    """CUDA's own compiler needs no GPU."""
    cubin = compile_cuda(gpu_source.SOURCE.read_bytes(), "source.cu", capability)
    assert cubin.startswith(b"\x7fELF")
    assert all(kernel.encode() in cubin for kernel in gpu_source._KERNELS)


@needs_nvrtc
def test_the_compilers_message_is_in_the_error():
    with pytest.raises(ProviderError, match=r'(?s)not compile bad.cu for compute capability 8.0: .*"x" is undefined'):
        compile_cuda(b"x y", "bad.cu", "8.0")


@needs_nvrtc
def test_a_product_is_rounded_before_it_is_added_to_as_on_the_host():
    kernel = 'extern "C" __global__ void f(float *a) { a[0] = a[1] * a[2] + a[3]; }'
    core = module.cuda_module("cuda.core")
    fused, rounded = (
        bytes(core.Program(kernel, "c++", core.ProgramOptions("f.cu", "sm_80", fma=fma)).compile("cubin").code)
        for fma in (True, False)
    )
    assert compile_cuda(kernel.encode(), "f.cu", "8.0") == rounded != fused


@pytest.mark.parametrize("missing", ["cuda.core", "cuda.bindings.driver"])
def test_a_missing_package_of_nvidia_is_named(monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ProviderError, match=rf"{missing} cannot be imported: .*\nhint: pip install cuda-core"):
        module.cuda_module(missing)


# --- Device


class Status(enum.IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_STREAM_CAPTURE_INVALIDATED = 901


class Recorder:
    """In place of `cuda.bindings.driver`: writes down its calls. Functions of `GIVES` return a number of their own."""

    GIVES = (
        *("cuDevicePrimaryCtxRetain", "cuStreamCreate", "cuMemAlloc", "cuEventCreate"),
        *("cuStreamEndCapture", "cuGraphInstantiate", "cuModuleLoadData"),
    )
    CUresult = Status
    CUstream_flags = SimpleNamespace(CU_STREAM_NON_BLOCKING=1)
    CUstreamCaptureMode = SimpleNamespace(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL=1)

    def __init__(self):
        self.calls, self.fails, self._numbers = [], {}, itertools.count(100)

    def __getattr__(self, function):
        def call(*arguments):
            self.calls.append((function, arguments))
            status = self.fails.get(function, Status.CUDA_SUCCESS)
            if function == "cuMemGetInfo":
                return status, 5_000_000, 8_000_000
            return (status, next(self._numbers)) if function in self.GIVES else (status,)

        return call

    def asked(self, *functions):
        return [(name, *arguments[:1]) for name, arguments in self.calls if name in functions]


FREES = ("cuGraphExecDestroy", "cuEventDestroy", "cuMemFree", "cuModuleUnload", "cuStreamDestroy")


@pytest.fixture
def recorder(monkeypatch):
    made = Recorder()
    monkeypatch.setattr(module, "find_gpu", lambda: TEST_GPU)
    monkeypatch.setattr(module, "cuda_module", lambda _: made)
    monkeypatch.setattr(module, "compile_cuda", lambda *_: b"cubin")
    return made


@pytest.mark.parametrize("end", [Device.close, lambda _: None], ids=["closed", "collected"])
def test_everything_is_freed_once_and_in_order(recorder, end):
    device = Device()
    events, graphs = [device.event() for _ in range(2)], [device.capture(lambda: None) for _ in range(2)]
    first, second = device.allocate(16), device.allocate(16)
    device.load_kernels(b"", "a.cu", ["normals"])
    [(_, module_number)] = [call for call in recorder.calls if call[0] == "cuModuleGetFunction"]
    device.free(first)
    assert recorder.asked(*FREES) == [("cuMemFree", first)]
    stream = device.stream
    end(device)
    del device
    gc.collect()
    assert recorder.asked(*FREES)[1:] == [
        *(("cuGraphExecDestroy", graph) for graph in graphs),
        *(("cuEventDestroy", event) for event in events),
        ("cuMemFree", second),
        ("cuModuleUnload", module_number[0]),
        ("cuStreamDestroy", stream),
    ]
    assert [name for name, _ in recorder.calls[-2:]] == ["cuCtxPopCurrent", "cuDevicePrimaryCtxRelease"]


def test_nothing_is_freed_while_another_thread_holds_the_gpu(recorder):
    device = Device()
    assert device.lock is GPU_LOCK
    ending = threading.Thread(target=device.close)
    with GPU_LOCK:
        ending.start()
        ending.join(0.05)
        assert not recorder.asked("cuStreamDestroy")
    ending.join()
    assert recorder.asked("cuStreamDestroy")[-1] == ("cuStreamDestroy", device.stream)


@pytest.mark.parametrize("fault", ["the work", "cuGraphInstantiate"])
def test_a_capture_that_fails_leaves_nothing(recorder, fault):
    device = Device()

    def work():
        if fault == "the work":
            raise ProviderError("the engine of vocoder does not run")

    recorder.fails[fault] = Status.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED
    with pytest.raises(ProviderError, match=r"does not run|cuGraphInstantiate gave CUDA_ERROR_STREAM_CAPTURE_INVAL"):
        device.capture(work)
    assert len(recorder.asked("cuStreamEndCapture")) == len(recorder.asked("cuGraphDestroy")) == 1
    device.close()
    assert not recorder.asked("cuGraphExecDestroy")


def test_too_little_memory_is_an_error_with_both_figures(recorder):
    recorder.fails["cuMemAlloc"] = Status.CUDA_ERROR_OUT_OF_MEMORY
    with pytest.raises(ProviderError, match=r"out of memory: cuMemAlloc asked for 9 MB; 5 of 8 MB are free\nhint: "):
        Device().allocate(9_000_000)


@pytest.mark.skipif(find_spec("cuda.bindings") is None, reason="cuda-bindings is not installed")
def test_every_driver_function_that_is_called_exists():
    from cuda.bindings import driver

    tree = ast.parse(Path(module.__file__).read_text("utf-8"))
    words = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    names = {word for word in words if word[:2] == "cu" and word[2:3].isupper()}
    assert len(names) > 15
    for name in names:
        assert callable(getattr(driver, name.removesuffix("_v2"))), name
    assert driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY.name == module._OUT_OF_MEMORY
    assert driver.CUstream_flags.CU_STREAM_NON_BLOCKING
    assert driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL


# --- comosvc-doctor

NVML = """
int nvmlInit_v2(void) {{ return {init}; }}
int nvmlShutdown(void) {{ return 0; }}
int nvmlSystemGetDriverVersion(char *text, unsigned size) {{ __builtin_strncpy(text, "580.65.06", size); return 0; }}
"""
CUDART = "int cudaRuntimeGetVersion(int *version) { *version = 13010; return 0; }"
CUDNN = "unsigned long cudnnGetVersion(void) { return 91302; }"
ROWS = """
import sys
sys.path += sys.argv[1:]
from comosvc.runtime.cli import doctor
found = [doctor._driver(None), *(doctor._cuda_library(name, needed=True) for name in doctor._CUDA)]
print({row.what: (row.works, row.detail) for row in found})
"""


def rows(libraries, *more):
    done = in_process(ROWS, libraries, 200, *map(str, more))
    assert done.returncode == 0, done.stderr
    return ast.literal_eval(done.stdout)


def test_the_doctor_shows_the_versions_of_driver_cuda_and_cudnn(tmp_path):
    library(tmp_path, NVML.format(init=0), "libnvidia-ml.so.1")
    library(tmp_path, CUDART, "libcudart.so.13")
    library(tmp_path, CUDNN, "libcudnn.so.9")
    found = rows(tmp_path)
    assert found["driver"] == (True, "580.65.06")
    assert found["CUDA"] == (True, "13.1, libcudart.so.13")
    assert found["cuDNN"] == (True, "9.13.2, libcudnn.so.9")


def test_the_doctor_says_why_it_knows_no_version(tmp_path):
    library(tmp_path, NVML.format(init=9), "libnvidia-ml.so.1")
    library(tmp_path, "int nothing;", "libcudart.so.13")
    found = rows(tmp_path)
    words = "version unknown: libnvidia-ml.so.1 does not tell its version: nvmlInit_v2 gave 9"
    assert found["driver"] == (None, words)
    assert "libcudart.so.13 is another library" in found["CUDA"][1]
    if not HAS_GPU:
        assert rows(tmp_path / "no")["driver"][1] == "version unknown: none is installed"


@pytest.mark.skipif(find_library("cudnn") is not None, reason="this system has cuDNN, which comes first")
def test_the_doctor_finds_pips_libraries(tmp_path):
    path = library(tmp_path / "nvidia" / "cudnn" / "lib", CUDNN, "libcudnn.so.9") / "libcudnn.so.9"
    assert rows(tmp_path / "empty", tmp_path)["cuDNN"] == (True, f"9.13.2, {path}")
    path.write_bytes(b"no library")
    works, detail = rows(tmp_path / "empty", tmp_path)["cuDNN"]
    assert not works
    assert detail.startswith("not found: libcudnn.so.9; ")
    assert str(path) in detail


def test_the_doctor_knows_tensorrt_by_each_of_its_names(monkeypatch):
    def version(name):
        if name != "tensorrt-cu13":
            raise doctor.importlib.metadata.PackageNotFoundError(name)
        return "11.4.0"

    monkeypatch.setattr(doctor.importlib.metadata, "version", version)
    said = {package[0]: doctor._package(*package[:2], "sys", package[3]) for package in doctor._PACKAGES}
    assert (said["TensorRT"].works, said["TensorRT"].detail) == (True, "tensorrt-cu13 11.4.0")
    assert said["TensorRT RTX"].works is None
    assert said["cuda-bindings"].detail == f"not installed: {install('cuda')} or {install('tensorrt')}"


def test_the_doctor_compiles_the_kernels(monkeypatch):
    def no_compiler(*_):
        raise ProviderError("CUDA's run-time compiler cannot be loaded")

    asked = []
    monkeypatch.setattr(doctor, "compile_cuda", lambda *arguments: asked.append(arguments))
    found = doctor._source_compiler(TEST_GPU)
    assert (found.works, found.detail) == (True, "compiles the kernels that make source and noise on a GPU")
    assert asked == [(gpu_source.SOURCE.read_bytes(), "source.cu", "8.9")]
    monkeypatch.setattr(doctor, "compile_cuda", no_compiler)
    assert doctor._source_compiler(None).works is None  # no fault where there is no GPU
    assert doctor._source_compiler(TEST_GPU).works is False
    assert "made on the host and sent: CUDA's run-time" in doctor._source_compiler(TEST_GPU).detail


@pytest.mark.skipif(HAS_GPU, reason="this machine has a GPU")
class TestWithoutADriver:
    """In a process of its own, since a library that meets no driver may end it."""

    @pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
    def test_a_provider_fails_before_it_loads_anything(self, provider):
        code = (
            "import sys\nfrom comosvc.runtime import Converter, ProviderError\n"
            f"try:\n Converter(provider={provider!r})\nexcept ProviderError as e:\n print(e)\n"
            "print({'tensorrt', 'tensorrt_rtx', 'cuda.bindings', 'cuda.core'} & set(sys.modules))"
        )
        done = in_process(code)
        assert (done.returncode, done.stderr) == (0, "")
        assert "no NVIDIA driver" in done.stdout
        assert done.stdout.strip().endswith("set()")
        with pytest.raises(ProviderError, match="no NVIDIA driver"):
            Device()

    def test_auto_goes_on_to_the_processor_in_silence(self):
        done = in_process(PROVIDER_OF)
        assert (done.stdout, done.stderr, done.returncode) == ("cpu\n", "", 0)

    def test_the_doctor_goes_through_everything(self):
        done = in_process(DOCTOR)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("comosvc works here: runs on cpu in fp32")
        assert len(done.stdout.splitlines()) < 30, "GPUs have one row"
        assert done.stdout.count("runs on cpu") == 2, "in the summary, and in one row"
        for word in ("no NVIDIA driver", "TensorRT RTX", "OpenVINO", "cuDNN", "provider tensorrt", "onnxruntime"):
            assert word in done.stdout
        assert done.stdout.count("no NVIDIA driver") == done.stdout.count("docker run --gpus all") == 1
        assert ".dll" not in done.stdout

    @pytest.mark.skipif(find_spec("openvino") is None, reason="it is the package that is taken away")
    def test_the_doctor_says_once_that_openvino_is_not_installed(self):
        absent = "import importlib.metadata as m, sys\nsys.modules['openvino'] = None\nreal = m.version\n"
        absent += "def version(name):\n if name == 'openvino': raise m.PackageNotFoundError(name)\n return real(name)\n"
        said = in_process(absent + "m.version = version\n" + DOCTOR).stdout
        assert "not installed: pip install" in said
        assert "provider openvino" not in said

    def test_the_doctor_says_once_that_there_is_no_such_voice(self):
        done = in_process(DOCTOR, None, 200, "-m", "nowhere")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("error: no voice 'nowhere'")

    @pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
    def test_the_doctor_fails_where_the_requested_provider_would_not_run(self, provider):
        done = in_process(DOCTOR, None, 400, "--provider", provider)
        assert done.returncode == 1
        assert f"provider {provider!r} does not run here: no NVIDIA driver" in done.stderr
        assert "hint:" not in done.stderr, "it stands in the table"
        assert f"provider {provider}" in done.stdout
        assert f"provider {provider!r}" not in done.stdout, "its row names it"
        assert "does not run here: needs a GPU with its driver (GPU, above)" in done.stdout
        if provider == "cuda" and [name.split()[0] for name in installed_wheels()] == ["onnxruntime"]:
            said = " ".join(done.stdout.split())
            assert "onnxruntime-gpu is missing" in said
            assert f"pip uninstall onnxruntime, then {install('cuda')}" in said
