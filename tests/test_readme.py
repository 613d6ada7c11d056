"""What the README shows works: its Python runs, its commands run, its table is that of the results."""

import ctypes
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib import resources
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile
import torch
from dataset_trees import tone, write
from foreign_files import TINY, write_comosvc, write_contentvec, write_m4singer_vocoder
from gpu_double import HostDevice
from typer.testing import CliRunner

from comosvc.benchmarks.cli import app as bench_app
from comosvc.benchmarks.demo_clips import read_clips, shipped_folder
from comosvc.benchmarks.report import Figures, load
from comosvc.export.cli import app as export_app
from comosvc.runtime import Converter, converter
from comosvc.training.cli import app as train_app
from comosvc.training.config import load_config, to_mapping
from comosvc.training.content.encoder import ContentEncoder
from comosvc.training.loop.checkpoint import save_checkpoint
from comosvc.training.recipe import Recipe

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


TORCH_APPS = {"comosvc-train": train_app, "comosvc-export": export_app}
"""Run here where a block has many of them: a process each would load torch each time."""


def blocks(language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    assert found, f"no {language} block in the README"
    return found


@pytest.fixture
def folder(tmp_path):
    """The README's song.wav, recordings as long as the published crop, a recipe of two steps, tiny checkpoints."""
    shutil.copy(shipped_folder() / read_clips(shipped_folder()).source.file, tmp_path / "song.wav")
    for song in range(5):
        write(tmp_path / "recordings" / "me" / f"song {song}.wav", tone(200.0 + 20.0 * song, 2.2))
        write(tmp_path / "recordings" / "you" / f"song {song}.wav", tone(150.0 + 20.0 * song, 2.2))
    smoke = resources.files("comosvc.training").joinpath("recipes/smoke.toml").read_text("utf-8")
    recipe = re.sub(r"^(warmup_)?steps = \d+", r"\1steps = 2", smoke, flags=re.MULTILINE)
    (tmp_path / "my.toml").write_text(recipe, "utf-8")
    write_content_encoder(tmp_path / "runs" / "mine" / "content", load_config(Recipe, str(tmp_path / "my.toml")))
    write_comosvc(tmp_path / "logs" / "como", TINY)
    write_m4singer_vocoder(tmp_path / "m4singer_hifigan", TINY)
    write_contentvec(tmp_path / "checkpoint_best_legacy_500.pt", TINY)
    return tmp_path


def write_content_encoder(folder: Path, recipe: Recipe) -> None:
    """An encoder of the smoke recipe's size as if it were trained: the shipped voice's takes a minute to export."""
    encoder = ContentEncoder(recipe.content.network, recipe.audio)
    config = {"audio": to_mapping(recipe.audio), "network": to_mapping(recipe.content.network)}
    folder.mkdir(parents=True)
    save_checkpoint(folder, 1, {"model": encoder, "ema": encoder}, torch.optim.AdamW(encoder.parameters()), config)


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


PYTHON = blocks("python")


@pytest.mark.parametrize("block", [block for block in PYTHON if "pycuda" not in block])
def test_python(block, folder):
    run([sys.executable, "-c", block], folder)
    assert list(folder.glob("*.wav"))


class GpuArray:
    """As much of pycuda's as is used, with its arguments, in the host's memory."""

    def __init__(self, shape, dtype, *, gpudata, base):
        self.shape, self.dtype, self.gpudata, self.base = shape, dtype, gpudata, base

    @classmethod
    def of(cls, array):
        return cls(array.shape, array.dtype, gpudata=array.ctypes.data, base=array)

    @property
    def __cuda_array_interface__(self):
        strides = (self.dtype.itemsize,)
        described = {"shape": self.shape, "strides": strides, "typestr": self.dtype.str, "stream": None, "version": 3}
        return {**described, "data": (int(self.gpudata), False)}

    def __add__(self, other):
        return GpuArray.of(self.get() + other.get())

    def get(self):
        memory = (ctypes.c_uint8 * (self.shape[0] * self.dtype.itemsize)).from_address(self.gpudata)
        return np.frombuffer(memory, self.dtype).copy()


def test_pycuda(folder, monkeypatch):
    """Without a GPU: the provider is the CPU, and the device's memory the host's."""
    (block,) = (block for block in PYTHON if "pycuda" in block)
    modules = {name: ModuleType(name) for name in ("pycuda", "pycuda.autoprimaryctx", "pycuda.gpuarray")}
    gpuarray = modules["pycuda.gpuarray"]
    gpuarray.to_gpu, gpuarray.GPUArray = GpuArray.of, GpuArray
    modules["pycuda"].gpuarray = gpuarray
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    open_voice = converter.open_voice

    def open_here(bundle, *_, **__):
        return replace(open_voice(bundle, "cpu", "fp32", 1, auto=False), provider="cuda")

    monkeypatch.setattr(converter, "choose_provider", lambda *_: "cuda")
    monkeypatch.setattr(converter, "open_voice", open_here)
    monkeypatch.setattr(converter, "Device", HostDevice)
    monkeypatch.chdir(folder)
    names = {}
    exec(block, names)
    with Converter("demo", provider="cpu", threads=1) as plain:
        wanted = plain.convert(names["samples"], names["rate"], singer="alto").audio
    np.testing.assert_array_equal(names["voice"].get(), wanted)
    np.testing.assert_array_equal(soundfile.read("duet.wav", dtype="float32")[0], wanted + names["samples"])
    names["converter"].close()
    np.testing.assert_array_equal(names["voice"].get(), wanted)


@pytest.mark.parametrize("block", blocks("console"))
def test_commands(block, folder, monkeypatch):
    lines = block.splitlines()
    assert all(line.startswith("$ ") for line in lines)
    training = sum(line.startswith("$ comosvc-train") for line in lines) > 1
    for line in lines:
        command = line.removeprefix("$ ")
        if training and command.startswith(tuple(TORCH_APPS)):
            monkeypatch.chdir(folder)
            name, *arguments = shlex.split(command)
            result = CliRunner().invoke(TORCH_APPS[name], arguments)
            assert result.exit_code == 0, result.output
        else:
            run(["bash", "-ec", command], folder)
    for made in re.findall(r"song_\w+\.\w+", block):
        assert (folder / made).stat().st_size > 1000


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in re.findall(r"`?make ([a-z-]+)", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_table_of_quality_is_the_measured_one():
    report = load(ROOT / "benchmarks" / "results" / "quality-demo.json", [Figures])
    shown = f"{report.table().as_markdown()}\n\n{report.note}"
    assert shown in (ROOT / "benchmarks" / "results" / "README.md").read_text("utf-8")


BY_PRECISION = [f"quality-demo-{kind}" for kind in ("fp32", "bf16", "int8", "openvino-int8")]


@pytest.mark.parametrize(
    ("document", "names"),
    [
        ("README.md", ["rtf-engines", *BY_PRECISION]),
        ("benchmarks/results/README.md", ["rtf-engines", "rtf-masked", "rtf-cpu", "quality-systems", *BY_PRECISION]),
    ],
)
def test_the_tables_are_the_measured_ones(tmp_path, document, names):
    results = [ROOT / "benchmarks" / "results" / f"{name}.json" for name in names]
    copy = shutil.copy(ROOT / document, tmp_path)
    done = CliRunner().invoke(bench_app, ["report", *map(str, results), "--readme", str(copy)])
    assert done.exit_code == 0, done.output
    assert Path(copy).read_text("utf-8") == (ROOT / document).read_text("utf-8")


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)#]+)", README):
        assert (ROOT / target).exists(), target
    for path in re.findall(r"`((?:runtime|benchmarks)/[^`]+)`", README):
        assert (ROOT / path).exists(), path
