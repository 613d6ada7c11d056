"""`make test-gpu` without a GPU, its programs replaced: what it goes on after, and how it ends."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")


def programs_in(folder, fails="nothing"):
    """They say what they were asked."""
    folder.mkdir(parents=True)
    for name in ("comosvc-doctor", "python", "comosvc-bench"):
        program = folder / name
        program.write_text(f"#!/bin/sh\necho ran {name} $@\nexit {int(name == fails)}\n")
        program.chmod(0o755)


def make(*words):
    """What was run, and how it ended."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    done = subprocess.run(["make", *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    return [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("ran ")], done


@pytest.mark.parametrize("fails", ["nothing", "comosvc-doctor", "python", "comosvc-bench"])
def test_the_gpus_speed_is_measured_whatever_failed_before(fails, tmp_path):
    programs_in(tmp_path / "venv" / "bin", fails)
    (tmp_path / "venv" / ".installed").touch()
    ran, done = make("test-gpu", f"GPU={tmp_path / 'venv'}", f"GPU_TABLE={tmp_path / 'table.json'}", "PYTHON=true")
    assert [words[0] for words in ran] == ["comosvc-doctor", "python", "comosvc-bench"], done.stdout + done.stderr
    assert ran[-1][1:] == ["rtf", "--preset", "gpu", "--json", str(tmp_path / "table.json")]
    assert (done.returncode == 0) == (fails == "nothing")


def test_onnx_runtime_for_the_gpu_is_installed_anew_with_the_environment(tmp_path):
    """Else pip says that it is there, after the wheel for the CPU has taken its files."""
    programs_in(tmp_path / "venv" / "bin")
    ran, _ = make(f"{tmp_path / 'venv'}/.installed", f"GPU={tmp_path / 'venv'}")
    everything, gone, last = (words[1:] for words in ran)
    assert ".[dev]" in everything
    assert {"uninstall", "onnxruntime", "onnxruntime-gpu"} <= {*gone}
    assert last[-1] == "onnxruntime-gpu[cuda,cudnn]"
