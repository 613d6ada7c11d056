"""Converting leaves nothing in the user's home."""

import os
import subprocess
import sys


def test_converting_writes_nothing_into_the_home_folder(tmp_path):
    """ONNX Runtime's telemetry, on by default, would keep a device id and a database of events there."""
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    code = "import numpy as np; from comosvc.runtime import Converter; Converter('demo').convert(np.ones(8000), 16000)"
    home = {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env={**environment, **home}, check=True, capture_output=True)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
