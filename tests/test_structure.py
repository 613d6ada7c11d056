"""What holds between the packages: who imports whom, what runs without torch, what is public."""

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "runtime": {"runtime"},
    "training": {"training", "runtime"},
    "export": {"export", "training", "runtime"},
    "benchmarks": {"benchmarks", "export", "training", "runtime"},
}
NOT_IN_THE_RUNTIME = {"torch", "scipy", "librosa", "lightning", "onnx", "onnxscript", "tensorboard"}
SOURCES = {package: sorted((ROOT / package).rglob("*.py")) for package in MAY_IMPORT}


def imported_modules(source: Path, package: str) -> set[str]:
    """Absolute names of every module that a file imports, wherever in the file it does so."""
    inside = ["comosvc", package, *source.relative_to(ROOT / package).parts[:-1]]
    names: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text("utf-8"), str(source))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = (
                ".".join([*inside[: len(inside) + 1 - node.level], *filter(None, [node.module])])
                if node.level
                else node.module
            )
            names.update(f"{base}.{alias.name}" for alias in node.names)
    return names


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_run_one_way(package):
    assert SOURCES[package], f"no source in {package}/"
    for source in SOURCES[package]:
        ours = {name.split(".")[1] for name in imported_modules(source, package) if name.startswith("comosvc.")}
        assert ours <= MAY_IMPORT[package], f"{source} imports {ours - MAY_IMPORT[package]}"


def test_the_check_above_sees_every_form_of_import(tmp_path, monkeypatch):
    source = tmp_path / "training" / "corpus" / "voice.py"
    source.parent.mkdir(parents=True)
    source.write_text(
        "import numpy\n"
        "from . import score\n"
        "from .. import loop\n"
        "from ...export.write import f\n"
        "def late():\n"
        "    import torch.nn\n"
    )
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    assert imported_modules(source, "training") == {
        "numpy",
        "comosvc.training.corpus.score",
        "comosvc.training.loop",
        "comosvc.export.write.f",
        "torch.nn",
    }


def test_no_second_copy_of_a_package():
    """`import runtime` from the repository's root would make every class twice."""
    files = [*(file for sources in SOURCES.values() for file in sources), *(ROOT / "tests").rglob("*.py")]
    for source in files:
        for node in ast.walk(ast.parse(source.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
            assert not {name.split(".")[0] for name in names} & set(MAY_IMPORT), f"{source}:{node.lineno}"


def test_the_runtime_names_no_training_library():
    for source in SOURCES["runtime"]:
        found = {name.split(".")[0] for name in imported_modules(source, "runtime")} & NOT_IN_THE_RUNTIME
        assert not found, f"{source} imports {found}"


def test_the_corpus_needs_no_torch():
    for source in (ROOT / "training" / "corpus").rglob("*.py"):
        assert "torch" not in {name.split(".")[0] for name in imported_modules(source, "training")}, source


BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked}:
            raise ModuleNotFoundError(f"{{name}} is blocked in this test", name=name)

sys.meta_path.insert(0, Blocked())
"""


def run_without(blocked: set[str], code: str) -> subprocess.CompletedProcess[str]:
    script = BLOCKED.format(blocked=sorted(blocked)) + code
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT / "tests", check=False
    )


def modules_of(package: str) -> list[str]:
    path = importlib.import_module(f"comosvc.{package}").__path__
    return [module.name for module in pkgutil.walk_packages(path, f"comosvc.{package}.")]


def test_every_runtime_module_imports_without_torch():
    modules = [name for name in modules_of("runtime") if not name.endswith("__main__")]
    assert "comosvc.runtime.converter" in modules
    blocked = NOT_IN_THE_RUNTIME | {"matplotlib"}
    done = run_without(blocked, "".join(f"import {name}\n" for name in modules))
    assert done.returncode == 0, done.stderr
    assert "is blocked" in run_without(blocked, "import torch").stderr


def test_the_demo_imports_without_torch():
    done = run_without(NOT_IN_THE_RUNTIME, "import comosvc.benchmarks.demo, comosvc.benchmarks.metrics")
    assert done.returncode == 0, done.stderr


def test_the_corpus_imports_without_torch():
    modules = modules_of("training.corpus")
    assert "comosvc.training.corpus.reader" in modules
    done = run_without({"torch", "lightning"}, "".join(f"import {name}\n" for name in modules))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("command", "mentions"),
    [
        (
            "comosvc-convert",
            ["--output", "--model", "--singer", "--key", "--seed", "--steps", "--plot", "--json", "--force", "--info"],
        ),
        ("comosvc-doctor", ["--provider"]),
        ("comosvc-train", ["corpus", "prepare", "content", "vocoder", "teacher", "student"]),
        ("comosvc-export", ["bundle", "engines", "verify", "inspect"]),
        ("comosvc-bench", ["rtf", "latency", "quality", "train", "compare", "report"]),
    ],
)
def test_every_command_explains_itself(command, mentions):
    done = subprocess.run(
        [Path(sys.executable).with_name(command), "--help"],
        capture_output=True,
        text=True,
        env={"COLUMNS": "200", "TERM": "dumb", "PATH": "/usr/bin:/bin"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for word in mentions:
        assert word in done.stdout
