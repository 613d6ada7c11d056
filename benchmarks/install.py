"""Size and import time of the slim install: a bare environment that holds `comosvc[cpu]` and nothing else.

    python -m comosvc.benchmarks.install FOLDER REQUIREMENT [--constraint FILE]

leaves the environment in FOLDER and prints one JSON object, {"size_mb", "import_s", "packages"}.
"""

import json
import statistics
import subprocess
import sys
import venv
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

MAX_SIZE_MB = 250.0
MAX_IMPORT_S = 0.5
_IMPORT_RUNS = 7
_TIMED_IMPORT = """
from time import perf_counter
start = perf_counter()
from comosvc.runtime import Converter
print(perf_counter() - start)
"""


@dataclass(frozen=True)
class SlimInstall:
    """Size and speed of a bare environment."""

    size_mb: float
    """All files of the environment, pip included, in 10^6 bytes."""
    import_s: float
    """Median over fresh processes of `from comosvc.runtime import Converter`, files in the page cache."""
    packages: list[str]


def measure_install(folder: Path, requirement: str, constraint: Path | None = None) -> SlimInstall:
    """Make an environment in `folder`, install `requirement` (as pip takes it) into it, and measure it.

    Raises `subprocess.CalledProcessError` where pip or the import fails; their own words are on stderr.
    """
    venv.create(folder, with_pip=True, clear=True)
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    pip = [python, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "install", "--quiet", *(["--constraint", constraint] if constraint else []), requirement], check=True
    )
    imports = [_output([python, "-c", _TIMED_IMPORT], cwd=folder) for _ in range(1 + _IMPORT_RUNS)][1:]
    return SlimInstall(
        size_mb=sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6,
        import_s=statistics.median(map(float, imports)),
        packages=_output([*pip, "freeze"], cwd=folder).split("\n"),
    )


def _output(command: list[str | Path], cwd: Path) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=cwd).stdout.strip()


def main(
    folder: Annotated[Path, typer.Argument(help="where to make the environment; emptied first")],
    requirement: Annotated[
        str, typer.Argument(help="what to install, as pip takes it: 'comosvc[cpu]', './x.whl[cpu]'")
    ],
    constraint: Annotated[Path | None, typer.Option(help="a pip constraints file")] = None,
) -> None:
    """Make a bare environment, install into it, print its size and import time; exit 1 if either is over the limit."""
    measured = measure_install(folder, requirement, constraint)
    Console(soft_wrap=True).print_json(json.dumps(asdict(measured)))
    if measured.size_mb > MAX_SIZE_MB or measured.import_s > MAX_IMPORT_S:
        Console(stderr=True).print(
            f"slim install over its limits: {measured.size_mb:.0f} MB of at most {MAX_SIZE_MB:.0f}, "
            f"import {measured.import_s:.2f} s of at most {MAX_IMPORT_S}\n"
            "hint: look at the new entries of its package list, and at what comosvc.runtime imports at once"
        )
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
