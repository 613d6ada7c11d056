"""The wheel holds every sub-package and data file: what pyproject.toml forgets is missing only once installed."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("runtime", "training", "export", "benchmarks")


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
    pip = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        out,
        tree,
    ]
    subprocess.run(pip, check=True, cwd=tree)
    return zipfile.ZipFile(next(out.glob("*.whl")))


def test_every_source_and_data_file_is_in_it(wheel):
    missing = {f"comosvc/{file.as_posix()}" for file in sources()} - set(wheel.namelist())
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


def test_it_ships_the_voice_and_stays_small(wheel):
    voices = [entry for entry in wheel.infolist() if entry.filename.endswith(".comosvc")]
    assert voices, "no voice in the wheel"
    assert all(voice.file_size <= 20e6 for voice in voices)
