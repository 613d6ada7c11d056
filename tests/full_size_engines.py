"""Engines at the authors' sizes, really built by TensorRT RTX without a GPU: time, memory, sizes, layers by type.

`python tests/full_size_engines.py RESULT.json`. The voice is the one that `comosvc-bench rtf --preset gpu` times, with
the fp16 graphs that pass the gate of comosvc-export precision, and is exported first where that has not been done.
Needs some 3 GB of disk, 4 GB of memory and a quarter of an hour.
"""

import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from comosvc.benchmarks.report import machine_facts
from comosvc.benchmarks.speed.full_size import AUTHORS_SIZE, with_precision
from comosvc.export.bundle.describe import commit
from comosvc.runtime.voice.bundle import kept_fp32, open_bundle


def build(folder: Path, home: Path, precision: str) -> dict:
    """Run the command in a process of its own, whose memory is then known where no earlier one took more."""
    command = ["engines", str(folder), "--flavour", "rtx", "--precision", precision]
    start = time.perf_counter()
    subprocess.run(
        [Path(sys.executable).with_name("comosvc-export"), *command],
        check=True,
        env={**os.environ, "COMOSVC_HOME": str(home)},
    )
    seconds = time.perf_counter() - start
    records = [json.loads(path.read_text()) for path in home.glob("engines/*/engine.json")]
    record = next(record for record in records if record["precision"] == precision)
    return {
        "command": f"comosvc-export {command[0]} BUNDLE {' '.join(command[2:])}",
        "seconds": round(seconds, 1),
        "peak_memory_bytes_so_far": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024,
        "bytes": sum(plan["size_bytes"] for plan in record["plans"].values()),
        **{key: record[key] for key in ("version", "compute_capabilities", "profiles", "plans", "not_built")},
    }


def main(result: Path) -> None:
    folder = Path(with_precision(AUTHORS_SIZE.ready(), "fp16", judged=True).model)
    bundle = open_bundle(folder)
    with tempfile.TemporaryDirectory() as home:
        found = {precision: build(folder, Path(home), precision) for precision in ("fp32", "fp16")}
    report = {
        "what": "engines of a voice of the authors' sizes with random weights, built ahead of time without a GPU; none "
        "of them has been run. The fp16 graphs passed the gate of comosvc-export precision. One core; the machine did "
        "other work",
        "command": f"python tests/full_size_engines.py benchmarks/results/{result.name}",
        "hardware": machine_facts(),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("tensorrt-rtx", "onnx", "onnxruntime")},
        },
        "commit": commit(),
        "kept_fp32": {graph: why for precision, graph, why in kept_fp32(bundle) if precision == "fp16"},
        "onnx_bytes": {path.name: path.stat().st_size for path in sorted(folder.glob("*.onnx"))},
        **found,
    }
    result.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
