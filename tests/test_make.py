"""`make test-gpu` without a GPU, its programs replaced: what it goes on after, and how it ends."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
@pytest.mark.parametrize("fails", ["nothing", "comosvc-doctor", "python", "comosvc-bench"])
def test_the_gpus_speed_is_measured_whatever_failed_before(fails, tmp_path):
    programs = tmp_path / "venv" / "bin"
    programs.mkdir(parents=True)
    for name in ("comosvc-doctor", "python", "comosvc-bench"):
        program = programs / name
        program.write_text(f"#!/bin/sh\necho ran {name} $@\nexit {int(name == fails)}\n")
        program.chmod(0o755)
    (tmp_path / "venv" / ".installed").touch()
    settings = (f"GPU={tmp_path / 'venv'}", f"GPU_TABLE={tmp_path / 'table.json'}", "PYTHON=true")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    done = subprocess.run(
        ["make", "test-gpu", *settings], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    ran = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("ran ")]
    assert [words[0] for words in ran] == ["comosvc-doctor", "python", "comosvc-bench"], done.stdout + done.stderr
    assert ran[-1][1:] == ["rtf", "--preset", "gpu", "--json", str(tmp_path / "table.json")]
    assert (done.returncode == 0) == (fails == "nothing")
