"""What is said of a machine whose GPU cannot be used: each reason its own words, and no process that dies."""

import ast
import shutil
import subprocess
import sys
from ctypes.util import find_library
from importlib.util import find_spec

import pytest

from comosvc.runtime import ProviderError
from comosvc.runtime.cli import doctor
from comosvc.runtime.errors import install
from comosvc.runtime.providers.gpu import Gpu, find_gpu
from comosvc.runtime.providers.sessions import installed_wheels


def has_gpu():
    try:
        find_gpu()
    except ProviderError:
        return False
    return True


DRIVER = """
typedef int Result;
static Result status = {init};
Result cuInit(unsigned flags) {{ return status; }}
Result cuDeviceGetCount(int *n) {{ *n = {count}; return 0; }}
Result cuDeviceGet(int *device, int index) {{ *device = index; return 0; }}
Result cuDriverGetVersion(int *version) {{ *version = 13020; return 0; }}
Result cuDeviceGetName(char *name, int length, int device) {{ __builtin_strncpy(name, "Test GPU", length); return 0; }}
Result cuDeviceTotalMem_v2(unsigned long *bytes, int device) {{ *bytes = 3ul << 30; return 0; }}
Result cuDeviceGetAttribute(int *value, int attribute, int device) {{ *value = attribute == 75 ? 8 : 9; return 0; }}
Result cuGetErrorName(int error, const char **name) {{ *name = "CUDA_ERROR_OF_THE_TEST"; return 0; }}
"""


def driver(folder, source, name="libcuda.so.1"):
    """A shared library that stands where NVIDIA's driver would, or another of its libraries."""
    if shutil.which("cc") is None or sys.platform != "linux":
        pytest.skip("needs a C compiler on Linux")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.c").write_text(source)
    command = ["cc", "-shared", "-fPIC", "-fno-builtin", "-o", folder / name, folder / f"{name}.c"]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def wheels():
    return [name.split()[0] for name in installed_wheels()]


def in_process(code, libraries=None, width=200):
    environment = {"PATH": "/usr/bin:/bin", "COLUMNS": str(width), "HOME": "/nonexistent"}
    if libraries is not None:
        environment["LD_LIBRARY_PATH"] = str(libraries)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)


FIND = """
from comosvc.runtime.providers.gpu import find_gpu
try:
    print(repr(find_gpu()))
except Exception as e:
    print(repr(e))
"""


DOCTOR = "from comosvc.runtime.cli.doctor import main\nmain()"


@pytest.mark.parametrize(
    ("init", "count", "words"),
    [
        (100, 0, "there is an NVIDIA driver but no GPU"),
        (0, 0, "there is an NVIDIA driver but no GPU"),
        (804, 1, "the NVIDIA driver does not work: cuInit gave CUDA_ERROR_OF_THE_TEST"),
    ],
)
def test_what_a_driver_says_is_told(tmp_path, init, count, words):
    done = in_process(FIND, driver(tmp_path, DRIVER.format(init=init, count=count)))
    assert words in done.stdout, done.stderr
    assert done.stdout.startswith("ProviderError(")


def test_a_driver_that_works(tmp_path):
    done = in_process(FIND, driver(tmp_path, DRIVER.format(init=0, count=1)))
    assert done.stdout.strip() == repr(Gpu("Test GPU", "8.9", 3 << 30, (13, 2))), done.stderr


def test_an_old_driver(tmp_path):
    source = DRIVER.format(init=0, count=1).replace("cuDeviceTotalMem_v2", "cuDeviceTotalMem")
    assert "is too old: libcuda.so.1 has no cuDeviceTotalMem_v2" in in_process(FIND, driver(tmp_path, source)).stdout


NVML = """
int nvmlInit_v2(void) {{ return {init}; }}
int nvmlShutdown(void) {{ return 0; }}
int nvmlSystemGetDriverVersion(char *text, unsigned size) {{ __builtin_strncpy(text, "580.65.06", size); return 0; }}
"""
CUDART = "int cudaRuntimeGetVersion(int *version) { *version = 13010; return 0; }"
CUDNN = "unsigned long cudnnGetVersion(void) { return 91302; }"
ROWS = """
import sys
sys.path += {more!r}
from comosvc.runtime.cli.doctor import accelerators
print({{row.what: (row.works, row.detail) for row in accelerators() if row.what in ("driver", "CUDA", "cuDNN")}})
"""


def rows(libraries, more=()):
    done = in_process(ROWS.format(more=[str(path) for path in more]), libraries)
    assert done.returncode == 0, done.stderr
    return ast.literal_eval(done.stdout)


def test_the_doctor_tells_the_versions_of_driver_cuda_and_cudnn(tmp_path):
    driver(tmp_path, NVML.format(init=0), "libnvidia-ml.so.1")
    driver(tmp_path, CUDART, "libcudart.so.13")
    driver(tmp_path, CUDNN, "libcudnn.so.9")
    found = rows(tmp_path)
    assert found["driver"] == (True, "580.65.06")
    assert found["CUDA"] == (True, "13.1, libcudart.so.13")
    assert found["cuDNN"] == (True, "9.13.2, libcudnn.so.9")


@pytest.mark.skipif(find_library("cudnn") is not None, reason="this system has cuDNN, which comes first")
def test_the_doctor_finds_pips_libraries(tmp_path):
    library = driver(tmp_path / "nvidia" / "cudnn" / "lib", CUDNN, "libcudnn.so.9") / "libcudnn.so.9"
    assert rows(tmp_path / "empty", more=[tmp_path])["cuDNN"] == (True, f"9.13.2, {library}")
    library.write_bytes(b"no library")
    works, detail = rows(tmp_path / "empty", more=[tmp_path])["cuDNN"]
    assert not works
    assert detail.startswith("not found: libcudnn.so.9; ")
    assert str(library) in detail


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


def test_the_doctor_says_why_it_knows_no_version(tmp_path):
    driver(tmp_path, NVML.format(init=9), "libnvidia-ml.so.1")
    driver(tmp_path, "int nothing;", "libcudart.so.13")
    found = rows(tmp_path)
    words = "version unknown: libnvidia-ml.so.1 does not tell its version: nvmlInit_v2 gave 9"
    assert found["driver"] == (None, words)
    assert "libcudart.so.13 is another library" in found["CUDA"][1]
    if not has_gpu():
        assert rows(tmp_path / "no")["driver"][1] == "version unknown: none is installed"


@pytest.mark.skipif(has_gpu(), reason="this machine has a GPU")
class TestWithoutADriver:
    """In a process of its own, since a library that meets no driver may end it."""

    @pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
    def test_a_provider_says_so_before_it_loads_anything(self, provider):
        code = (
            "import sys\nfrom comosvc.runtime import Converter, ProviderError\n"
            f"try:\n Converter(provider={provider!r})\nexcept ProviderError as e:\n print(e)\n"
            "print([name for name in ('tensorrt', 'tensorrt_rtx', 'cuda.bindings.driver') if name in sys.modules])\n"
        )
        done = in_process(code)
        assert done.returncode == 0, done.stderr
        assert "no NVIDIA driver" in done.stdout
        assert done.stdout.strip().endswith("[]")
        assert done.stderr == ""

    def test_auto_goes_on_to_the_processor_in_silence(self):
        done = in_process("from comosvc.runtime import Converter\nprint(Converter(threads=1).provider)")
        assert (done.stdout, done.stderr, done.returncode) == ("cpu\n", "", 0)

    def test_the_doctor_goes_through_everything(self):
        done = in_process(DOCTOR)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("comosvc works here: runs on cpu in fp32")
        assert len(done.stdout.splitlines()) < 30, "what concerns GPUs stands in one row"
        assert done.stdout.count("runs on cpu") == 2, "in the summary, and in one row"
        for word in ("no NVIDIA driver", "TensorRT RTX", "OpenVINO", "cuDNN", "provider tensorrt", "onnxruntime"):
            assert word in done.stdout
        assert done.stdout.count("no NVIDIA driver") == done.stdout.count("docker run --gpus all") == 1
        assert ".dll" not in done.stdout
        assert "lean" not in done.stdout

    @pytest.mark.skipif(find_spec("openvino") is None, reason="it is the package that is taken away")
    def test_the_doctor_says_once_that_openvino_is_not_installed(self):
        absent = "import importlib.metadata as m, sys\nsys.modules['openvino'] = None\nreal = m.version\n"
        absent += "def version(name):\n if name == 'openvino': raise m.PackageNotFoundError(name)\n return real(name)\n"
        said = in_process(absent + "m.version = version\n" + DOCTOR).stdout
        assert "not installed: pip install" in said
        assert "provider openvino" not in said

    def test_the_doctor_says_once_that_there_is_no_such_voice(self):
        done = in_process("import sys\nsys.argv[1:] = ['-m', 'nowhere']\n" + DOCTOR)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("error: no voice 'nowhere'")

    @pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
    def test_the_doctor_fails_where_the_asked_provider_would_not_run(self, provider):
        done = in_process(f"import sys\nsys.argv[1:] = ['--provider', {provider!r}]\n" + DOCTOR)
        assert done.returncode == 1
        assert f"provider {provider!r} does not run here: no NVIDIA driver" in done.stderr
        assert "hint:" not in done.stderr, "it stands in the table"
        assert f"provider {provider}" in done.stdout
        assert f"provider {provider!r}" not in done.stdout, "its row says which it is"
        assert "does not run here: needs a GPU with its driver (GPU, above)" in done.stdout

    @pytest.mark.skipif(wheels() != ["onnxruntime"], reason="onnxruntime is here as another wheel")
    def test_the_doctor_names_the_missing_wheel_beside_the_missing_driver(self):
        asked = "import sys\nsys.argv[1:] = ['--provider', 'cuda']\n"
        said = " ".join(in_process(asked + DOCTOR, width=400).stdout.split())
        assert "and onnxruntime" in said
        assert "onnxruntime-gpu is missing" in said
        assert f"pip uninstall onnxruntime, then {install('cuda')}" in said

    def test_the_device_is_refused_before_cuda_bindings_is(self):
        from comosvc.runtime.providers.gpu import Device

        with pytest.raises(ProviderError, match="no NVIDIA driver"):
            Device()


def test_a_driver_that_lies_does_not_end_the_process(tmp_path):
    """It counts a GPU and can do nothing else: whatever the engines then raise is told, and `auto` goes on."""
    libraries = driver(tmp_path, DRIVER.format(init=0, count=1))
    done = in_process("from comosvc.runtime import Converter\nprint(Converter(threads=1).provider)", libraries)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("cpu\n")
