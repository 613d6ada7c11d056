"""What holds between the packages: who imports whom, what runs without torch, what is public."""

import ast
import importlib
import pkgutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "runtime": {"runtime"},
    "training": {"training", "runtime"},
    "export": {"export", "training", "runtime"},
    "benchmarks": {"benchmarks", "export", "training", "runtime"},
}
ROOMS = {
    "runtime": ["errors", "storage", "audio", "voice", "conversion", "providers", "converter", "cli"],
    "training": [
        "errors",
        "config",
        "loop",
        "options",
        "corpus",
        "data",
        "content",
        "vocoder",
        "acoustic",
        "foreign",
        "run",
        "recipe",
        "evaluation",
        "cli",
    ],
    "export": ["errors", "archive", "graphs", "precision", "bundle", "importing", "cli"],
    "benchmarks": [
        "report",
        "metrics",
        "held_out",
        "demo_clips",
        "demo",
        "install",
        "baselines",
        "quality",
        "trained",
        "speed",
        "cli",
    ],
}
"""Rooms of each package, lowest first. A room imports only the rooms before it."""
NOT_IN_THE_RUNTIME = {"torch", "scipy", "librosa", "lightning", "onnx", "onnxscript", "tensorboard"}
SOURCES = {package: sorted((ROOT / package).rglob("*.py")) for package in MAY_IMPORT}


def imported_modules(source: Path, package: str, *, typing: bool = True) -> set[str]:
    """Absolute names of every module that a file imports, wherever in the file it does so.

    `typing`: also those under `if TYPE_CHECKING`.
    """
    tree = ast.parse(source.read_text("utf-8"), str(source))
    if not typing:
        tree.body = [
            node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
        ]
    inside = ["comosvc", package, *source.relative_to(ROOT / package).parts[:-1]]
    names: set[str] = set()
    for node in ast.walk(tree):
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


def room_of(name: str, package: str) -> str:
    """The room of a module by its absolute name; "" for the package itself and for other packages."""
    inside = name.removeprefix(f"comosvc.{package}.")
    return "" if inside == name else inside.split(".")[0]


@pytest.mark.parametrize("package", ROOMS)
def test_rooms_import_only_lower_rooms(package):
    order = ROOMS[package]
    for source in SOURCES[package]:
        own = source.relative_to(ROOT / package).with_suffix("").parts[0]
        if own == "__init__":
            continue
        for name in imported_modules(source, package):
            room = room_of(name, package)
            # A name of the package itself, as in `from .. import __version__`, is no room.
            if room in order:
                assert order.index(room) <= order.index(own), f"{source} imports {name}"
        assert own in order, f"{source} is in no room"


def test_no_module_imports_itself_through_others():
    modules = {}
    for package, sources in SOURCES.items():
        for source in sources:
            parts = source.relative_to(ROOT / package).with_suffix("").parts
            name = ".".join(["comosvc", package, *(part for part in parts if part != "__init__")])
            modules[name] = (source, package)
    imports = {}
    for name, where in modules.items():
        found = imported_modules(*where, typing=False)
        imports[name] = (found | {one.rpartition(".")[0] for one in found}) & modules.keys() - {name}
    packages = {name for name, (source, _) in modules.items() if source.name == "__init__.py"}
    left = {name: found - packages for name, found in imports.items() if name not in packages}
    while free := [name for name, found in left.items() if not found & left.keys()]:
        for name in free:
            del left[name]
    assert not left, f"import circles among {sorted(left)}"


def brought_by(extra: str) -> set[str]:
    """The distributions that an extra asks for, its own and those of the extras that it names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    found, asked = {Requirement(text).name.lower() for text in project["dependencies"]}, [extra]
    while asked:
        for requirement in map(Requirement, project["optional-dependencies"][asked.pop()]):
            if requirement.name == project["name"]:
                asked += requirement.extras
            found.add(requirement.name.lower())
    return found


def needed_at_once(source: Path) -> set[str]:
    """First names of the modules of others that a file imports when it is imported itself."""
    tree = ast.parse(source.read_text("utf-8"))
    names = [alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in tree.body if isinstance(node, ast.ImportFrom) and not node.level]
    return {name.partition(".")[0] for name in names} - sys.stdlib_module_names


@pytest.mark.parametrize(("package", "extra"), [("training", "train"), ("export", "export"), ("benchmarks", "bench")])
def test_an_extra_brings_what_its_commands_import(package, extra):
    brought, from_where = brought_by(extra), packages_distributions()
    for folder in MAY_IMPORT[package] - {"runtime"}:
        for source in SOURCES[folder]:
            for module in needed_at_once(source):
                assert {name.lower() for name in from_where[module]} & brought, f"{source} imports {module}"


def test_the_check_above_would_notice(tmp_path):
    source = tmp_path / "x.py"
    source.write_text("import json\nimport scipy.fft\nfrom torch import nn\ndef late():\n    import onnx\n")
    assert needed_at_once(source) == {"scipy", "torch"}
    assert "scipy" in brought_by("train") - brought_by("plot")


def test_the_check_above_sees_every_form_of_import(tmp_path, monkeypatch):
    source = tmp_path / "training" / "corpus" / "voice.py"
    source.parent.mkdir(parents=True)
    source.write_text(
        "import numpy\n"
        "from . import songs\n"
        "from ..loop import loop\n"
        "from ...export.write import f\n"
        "def late():\n"
        "    import torch.nn\n"
    )
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    assert imported_modules(source, "training") == {
        "numpy",
        "comosvc.training.corpus.songs",
        "comosvc.training.loop.loop",
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


def test_no_module_gives_one_name_to_two_things():
    """The second would silently replace the first, as in modules that were merged."""
    for source in (file for sources in SOURCES.values() for file in sources):
        given: list[str] = []
        for node in ast.parse(source.read_text("utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                given.append(node.name)
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                given += [name.id for one in targets for name in ast.walk(one) if isinstance(name, ast.Name)]
        twice = {name for name in given if given.count(name) > 1} - {"_"}
        assert not twice, f"{source} defines {sorted(twice)} twice"


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
        ("comosvc", ["convert", "live", "train", "export", "bench", "doctor", "--install-completion"]),
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


HEAVY = NOT_IN_THE_RUNTIME | {"transformers", "matplotlib", "onnxruntime"}


@pytest.mark.parametrize("module", [f"comosvc.{package}.cli" for package in ("training", "export", "benchmarks")])
def test_help_imports_nothing_heavy(module):
    """A command's module is all that `--help` imports; it runs twenty times faster without torch."""
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert "typer" in loaded
    assert not loaded & HEAVY
