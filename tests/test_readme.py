"""README and docs: their Python runs, their commands run, their figures are those of the results, links lead on."""

import ctypes
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import replace
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import soundfile
from dataset_trees import tone, write
from foreign_files import TINY, write_comosvc, write_contentvec, write_m4singer_vocoder
from gpu_double import HostDevice
from test_structure import ROOMS
from typer.testing import CliRunner

from comosvc import runtime
from comosvc.benchmarks.cli import app as bench_app
from comosvc.benchmarks.demo_clips import read_clips, shipped_folder
from comosvc.benchmarks.report import Figures, load
from comosvc.export.cli import app as export_app
from comosvc.runtime import AudioSpec, ComosvcError, Converter, converter
from comosvc.runtime.audio.spec import OPENVPI_44K
from comosvc.training.cli import app as train_app
from comosvc.training.config import from_mapping
from comosvc.training.foreign.locations import ForeignSource

ROOT = Path(__file__).parents[1]
DOCUMENTS = {
    path.relative_to(ROOT).as_posix(): path.read_text("utf-8")
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
}
README = DOCUMENTS["README.md"]
GENERATED = runpy.run_path(str(ROOT / ".ci" / "docs.py"))

TORCH_APPS = {"comosvc-train": train_app, "comosvc-export": export_app}
"""Run here where a block has many of them: a process each would load torch each time."""


def blocks(language: str) -> list[str]:
    """Code blocks of all documents, without those whose lines are in another one too."""
    pattern = rf"^```{language}\n(.*?)^```$"
    found = [block for text in DOCUMENTS.values() for block in re.findall(pattern, text, re.DOTALL | re.MULTILINE)]
    found = list(dict.fromkeys(found))
    lines = {block: set(block.splitlines()) for block in found}
    return [block for block in found if not any(lines[block] < lines[other] for other in found)]


@pytest.fixture
def folder(tmp_path):
    """song.wav, recordings as long as the published crop, a small recipe, tiny checkpoints."""
    shutil.copy(shipped_folder() / read_clips(shipped_folder()).source.file, tmp_path / "song.wav")
    for song in range(5):
        write(tmp_path / "recordings" / "me" / f"song {song}.wav", tone(200.0 + 20.0 * song, 2.2))
        write(tmp_path / "recordings" / "you" / f"song {song}.wav", tone(150.0 + 20.0 * song, 2.2))
    (tmp_path / "small.toml").write_text(small_recipe(), "utf-8")
    write_comosvc(tmp_path / "logs" / "como", TINY)
    write_m4singer_vocoder(tmp_path / "m4singer_hifigan", TINY)
    write_contentvec(tmp_path / "checkpoint_best_legacy_500.pt", TINY)
    return tmp_path


SMALL = """
[vocoder.network]
channels = 16

[acoustic.denoiser]
channels = 16
hidden = 16
layers = 2
"""


def small_recipe() -> str:
    """The recipe `authors` with small networks and two steps of each stage."""
    recipe = resources.files("comosvc.training").joinpath("recipes/authors.toml").read_text("utf-8")
    recipe = re.sub(r"^steps = \d+", "steps = 2", recipe, flags=re.MULTILINE)
    recipe = re.sub(r"^batch_size = \d+", "batch_size = 2", recipe, flags=re.MULTILINE)
    recipe = re.sub(r"^\[vocoder.adversary\].*?\n\n", "", recipe, flags=re.MULTILINE | re.DOTALL)
    return (
        f"{recipe}\n[vocoder.network]\nchannels = 16\n\n[acoustic.denoiser]\nchannels = 16\nhidden = 16\nlayers = 2\n"
    )


def small(command: str) -> str:
    """A documented command with the small recipe, and the file of `folder` in place of an address of the Hub."""
    command = re.sub(r"hf://\S+", "checkpoint_best_legacy_500.pt", command)
    return command.replace("-c authors", "-c small.toml")


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
        command = small(line.removeprefix("$ "))
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
    for text in DOCUMENTS.values():
        for target in re.findall(r"`make ([a-z-]+)", text):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 160
    assert len(README.split()) <= 1300


def test_the_figures_are_the_measured_ones():
    assert GENERATED["figures"]() in README


def result(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text("utf-8"))


def blocks_of(name: str, length_ms: float) -> list[dict[str, Any]]:
    return [row for row in result(name)["rows"] if (row["what"], row["length_ms"]) == ("block", length_ms)]


def test_the_delays_are_the_measured_ones():
    text = DOCUMENTS["docs/live.md"]
    (block,) = blocks_of("latency", 20.0)
    lag_ms, times_ms = block["latency_ms"], block["taken_ms"]
    median_ms, slow_ms = np.percentile(times_ms, (50, 99))
    assert (
        f"{median_ms:.1f} ms | {slow_ms:.1f} ms | {lag_ms:.0f} ms behind the input, {lag_ms + slow_ms:.1f} ms" in text
    )
    start_up = result("latency")["start_up"]
    assert f"{sum(start_up[f'{part}_ms'] for part in ('import', 'load', 'first_second')) / 1e3:.2f} s after" in text
    (light,) = blocks_of("latency-full-size-light", 160.0)
    assert f"{np.median(light['taken_ms']):.0f} ms | | {light['latency_ms']:.0f} ms behind the input" in text


def test_time_and_memory_of_long_files_are_the_measured_ones():
    short, long = result("latency-long-files")["long_files"]
    text = " ".join(DOCUMENTS["docs/convert.md"].split())
    assert f"on two cores and {long['peak_mb']:.0f} MB; half a minute takes {short['peak_mb']:.0f} MB" in text
    assert f"takes {long['seconds'] / long['minutes']:.2f} s" in DOCUMENTS["docs/benchmarks.md"]


def test_the_table_of_quality_is_the_measured_one():
    report = load(ROOT / "benchmarks" / "results" / "quality-demo.json", [Figures])
    shown = f"{report.table().as_markdown()}\n\n{report.note}"
    assert shown in (ROOT / "benchmarks" / "results" / "README.md").read_text("utf-8")


BY_PRECISION = [f"quality-demo-{kind}" for kind in ("fp32", "bf16", "int8", "openvino-int8")]


@pytest.mark.parametrize(
    ("document", "names"),
    [
        ("docs/benchmarks.md", ["rtf-engines", *BY_PRECISION]),
        ("benchmarks/results/README.md", ["rtf-engines", "rtf-masked", "rtf-cpu", "quality-systems", *BY_PRECISION]),
    ],
)
def test_the_tables_are_the_measured_ones(tmp_path, document, names):
    results = [ROOT / "benchmarks" / "results" / f"{name}.json" for name in names]
    copy = shutil.copy(ROOT / document, tmp_path)
    done = CliRunner().invoke(bench_app, ["report", *map(str, results), "--readme", str(copy)])
    assert done.exit_code == 0, done.output
    assert Path(copy).read_text("utf-8") == (ROOT / document).read_text("utf-8")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_and_paths_lead_somewhere(document):
    text, here = DOCUMENTS[document], (ROOT / document).parent
    for target in re.findall(r"\]\((?!http)([^)#]+)", text):
        assert (here / target).exists(), target
    for path in re.findall(r"`((?:runtime|training|export|benchmarks|tests)/[\w./-]*)`", text):
        assert (ROOT / path).exists(), path
    for result in re.findall(r"`([\w-]+\.json)`", text):
        if result not in INSIDE_OTHER_FILES:
            assert (ROOT / "benchmarks" / "results" / result).exists(), result


INSIDE_OTHER_FILES = {"bundle.json", "parity.json"}


def test_addresses_name_a_commit():
    addresses = re.findall(r"hf://(?!owner/)[^\s`)]+", "\n".join(DOCUMENTS.values()))
    assert len(set(addresses)) == 2
    for address in addresses:
        assert ForeignSource.parse(address).name


def test_settings_for_openvpis_vocoder():
    (table,) = re.findall(r"^```toml\n(.*?)^```$", DOCUMENTS["docs/train.md"], re.DOTALL | re.MULTILINE)
    assert from_mapping(AudioSpec, tomllib.loads(table)["audio"], "audio") == OPENVPI_44K


@pytest.mark.parametrize("package", ["runtime", "training", "export"])
def test_the_rooms_are_in_order(package):
    (row,) = re.findall(rf"^\| `{package}/` \| (.* · .*) \|$", DOCUMENTS["docs/architecture.md"], re.MULTILINE)
    assert re.findall(r"`(\w+)/?`", row) == [room for room in ROOMS[package] if room != "entry"]


def test_the_reference_has_every_public_name():
    found = re.findall(r"^::: comosvc\.runtime\.(\w+)$", DOCUMENTS["docs/api.md"], re.MULTILINE)
    assert sorted(found) == sorted(set(runtime.__all__) - {"__version__"})


MESSAGES = [
    re.compile(".*".join(map(re.escape, row.text.split("…"))))
    for row in GENERATED["messages"]()
    if len(row.text.replace("…", "")) > 12
]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Converter("no-such-voice"),
        lambda: Converter(provider="gpuu"),
        lambda: Converter("demo", threads=0),
        lambda: Converter("demo").convert(np.zeros(100), 24_000, singer="nobody"),
        lambda: Converter("demo").convert(np.zeros(100), 24_000, key="atuo"),
        lambda: Converter("demo").convert(np.full(100, np.nan), 24_000),
        lambda: Converter("demo").convert_file("no-such-file.wav", "out.wav"),
    ],
)
def test_a_message_is_found_in_the_table(wrong):
    """A row matches: its constant text in order, with any values between."""
    with pytest.raises(ComosvcError) as caught:
        wrong()
    message = str(caught.value).partition("\nhint: ")[0]
    assert any(pattern.fullmatch(" ".join(message.split())) for pattern in MESSAGES), message
