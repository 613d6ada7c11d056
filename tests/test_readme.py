"""What the README shows works: its Python runs, its commands run, its table is that of the results."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from foreign_files import TINY, write_comosvc, write_contentvec, write_m4singer_vocoder

from comosvc.benchmarks.demo_clips import read_clips, shipped_folder
from comosvc.benchmarks.report import as_markdown, load_json

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    assert found, f"no {language} block in the README"
    return found


@pytest.fixture
def folder(tmp_path):
    """The README's song.wav, tiny checkpoints under the names it uses, and a PATH on which its commands are."""
    shutil.copy(shipped_folder() / read_clips(shipped_folder()).source.file, tmp_path / "song.wav")
    write_comosvc(tmp_path / "logs" / "como", TINY)
    write_m4singer_vocoder(tmp_path / "m4singer_hifigan", TINY)
    write_contentvec(tmp_path / "checkpoint_best_legacy_500.pt", TINY)
    return tmp_path


def run(command: list[str], folder: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PATH": path, "COMOSVC_HOME": str(folder / "home")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("block", blocks("python"))
def test_python(block, folder):
    run([sys.executable, "-c", block], folder)
    assert list(folder.glob("*.wav"))


@pytest.mark.parametrize("block", blocks("console"))
def test_commands(block, folder):
    lines = block.splitlines()
    assert all(line.startswith("$ ") for line in lines)
    for line in lines:
        run(["bash", "-ec", line.removeprefix("$ ")], folder)
    for made in re.findall(r"song_\w+\.\w+", block):
        assert (folder / made).stat().st_size > 1000


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in re.findall(r"`?make ([a-z-]+)", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_table_is_the_measured_one():
    report = load_json(ROOT / "benchmarks" / "results" / "quality-demo.json")
    assert as_markdown(report) in README


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)#]+)", README):
        assert (ROOT / target).exists(), target
    for path in re.findall(r"`((?:runtime|benchmarks)/[^`]+)`", README):
        assert (ROOT / path).exists(), path
