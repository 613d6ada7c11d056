"""The wheel holds every sub-package and data file: what pyproject.toml forgets is missing only once installed."""

import importlib.util
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import comosvc.runtime
from comosvc.pyinstaller import hook_dirs

ROOT = Path(__file__).parents[1]
PACKAGES = ("command", "runtime", "training", "export", "benchmarks")


def sources() -> list[Path]:
    return [
        file.relative_to(ROOT)
        for package in PACKAGES
        for file in sorted((ROOT / package).rglob("*"))
        if file.is_file() and "__pycache__" not in file.parts and "results" not in file.relative_to(ROOT).parts
    ]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    tree = tmp_path_factory.mktemp("tree")  # a copy: setuptools would reuse a stale build/ of the checkout
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, tree)
    out = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", out, tree], check=True, cwd=tree)
    return zipfile.ZipFile(next(out.glob("*.whl")))


def test_every_source_and_data_file_is_in_it(wheel):
    missing = {f"comosvc/{file.as_posix().removeprefix('command/')}" for file in sources()} - set(wheel.namelist())
    assert not missing


def test_nothing_else_is_in_it(wheel):
    strays = {name for name in wheel.namelist() if not name.startswith("comosvc/") and ".dist-info/" not in name}
    assert not strays


def test_it_names_its_licence_and_its_commands(wheel):
    names = wheel.namelist()
    assert any(name.endswith("licenses/LICENSE") for name in names)
    commands = wheel.read(next(name for name in names if name.endswith("entry_points.txt"))).decode()
    for command in ("convert", "doctor", "train", "export", "bench"):
        assert f"comosvc-{command} = comosvc." in commands
    assert "comosvc = comosvc.__main__:main" in commands


def test_it_ships_the_voice_and_stays_small(wheel):
    voices = [entry for entry in wheel.infolist() if entry.filename.endswith(".comosvc")]
    assert voices, "no voice in the wheel"
    assert all(voice.file_size <= 20e6 for voice in voices)


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A folder for PYTHONPATH with the wheel's files, as pip would put them."""
    folder = tmp_path_factory.mktemp("installed")
    wheel.extractall(folder)
    return folder


TYPED = """
from typing import Any
import numpy as np
import torch
from comosvc import Converter, __version__
converter = Converter("demo", provider="cpu", precision="fp32")
audio = np.zeros(8, np.float32)
samples: np.ndarray[Any, np.dtype[np.float32]] = converter.convert(audio, 24_000, key="auto", latency="low").audio
address: int = converter.convert(torch.zeros(8, device="cuda"), 24_000).audio.address
length: int = converter.stream(48_000).latency_samples
version: str = __version__
"""
MISTYPED = (
    'Converter("demo", provider="gpuu")',
    'Converter("demo", precision="fp33")',
    'converter.convert(audio, 24_000, latency="lo")',
    'converter.convert(audio, 24_000, key="atuo")',
    'converter.convert_many([], ".", ending=".mp3")',
    "converter.singers = {}",
)


def test_types_find_the_wrong_word_and_take_arrays_of_the_gpu(installed, tmp_path):
    (tmp_path / "typed.py").write_text(TYPED + "\n".join(MISTYPED) + "\n", "utf-8")
    settings = {"extraPaths": [str(installed)], "include": ["typed.py"], "pythonVersion": "3.11"}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings), "utf-8")
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson", "-p", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    errors = {
        found["range"]["start"]["line"]: found["message"] for found in json.loads(done.stdout)["generalDiagnostics"]
    }
    first = len(TYPED.splitlines())
    assert sorted(errors) == list(range(first, first + len(MISTYPED))), errors


FROZEN = """
import sys
import numpy as np
from comosvc import ComosvcError, Converter
from comosvc.__main__ import app
app(["convert", "--version"], standalone_mode=False)
app(["doctor", "--help"], standalone_mode=False)
for provider in ("cpu", "openvino"):
    try:
        with Converter("demo", provider=provider) as converter:
            print(converter.provider, len(converter.convert(np.zeros(8_000, np.float32), 16_000).audio))
    except ComosvcError as error:
        print(error)
"""
NOT_FOR_THE_APP = (
    *("openvino", "tensorrt_rtx", "cuda", "torch", "scipy"),
    *("matplotlib", "sounddevice", "av", "pyworld", "IPython"),
)


def test_the_pyinstaller_hook_has_all_that_is_imported_by_name():
    pytest.importorskip("PyInstaller")
    hook = runpy.run_path(str(Path(hook_dirs()[0]) / "hook-comosvc.py"))
    sources = [path.read_text("utf-8") for path in Path(comosvc.runtime.__file__).parent.rglob("*.py")]
    named = {name for text in sources for name in re.findall(r'import_(?:module|native)\("([\w.]+)"\)', text)}
    assert {"onnxruntime", "openvino", "sounddevice", "av", "pyworld", "matplotlib.figure"} <= named
    absent = {name for name in named if importlib.util.find_spec(name.split(".")[0]) is None}
    assert named - absent - {"matplotlib", "soundfile"} <= set(hook["hiddenimports"])
    assert {"comosvc.runtime.cli.doctor", "comosvc.runtime.providers.openvino"} <= set(hook["hiddenimports"])


@pytest.mark.slow
def test_an_application_frozen_by_pyinstaller_converts(installed, tmp_path):
    """On the provider that was built in; what it says of another names no pip and no folder of this machine."""
    pytest.importorskip("PyInstaller")
    (tmp_path / "app.py").write_text(FROZEN, "utf-8")
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYINSTALLER_CONFIG_DIR": str(tmp_path / "cache")}
    left_out = [word for name in NOT_FOR_THE_APP for word in ("--exclude-module", name)]
    build = [sys.executable, "-m", "PyInstaller", "--noconfirm", "--log-level", "ERROR", *left_out, "app.py"]
    subprocess.run(build, cwd=tmp_path, env=environment, check=True)
    bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([tmp_path / "dist" / "app" / "app"], capture_output=True, text=True, env=bare, check=False)
    assert done.returncode == 0, done.stderr
    version, *rest = done.stdout.splitlines()
    assert version == comosvc.__version__
    assert "cpu 8000" in rest
    assert rest[-1] == "hint: this application has to be built again with comosvc[openvino]"
