"""Engines at the authors' sizes, really built by TensorRT RTX without a GPU: time, memory, sizes, layers by type.

`python tests/full_size_engines.py RESULT.json BUNDLE`. BUNDLE is an unpacked voice of full size, for instance the one
that `comosvc-bench rtf --systems comosvc` leaves in the cache. Needs some 3 GB of disk, 4 GB of memory and minutes.
"""

import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import onnx
from onnxruntime.transformers.float16 import convert_float_to_float16

from comosvc.benchmarks.report import this_machine
from comosvc.export.describe import commit
from comosvc.runtime.bundle import Bundle, open_bundle
from comosvc.runtime.manifest import to_json

HALVED = ("content", "acoustic", "acoustic_n", "vocoder")


def half_size(bundle: Bundle, folder: Path) -> Path:
    """The voice with graphs that say FP16 throughout. They passed no gate: they are to be built, not to be heard."""
    folder.mkdir()
    variants = {}
    for name, entry in bundle.manifest.graphs.items():
        data = bundle.entry_bytes(name, entry)
        (folder / str(entry.file)).write_bytes(data)
        if name in HALVED:
            model = convert_float_to_float16(onnx.load_from_string(data), keep_io_types=True)
            data = model.SerializeToString()
            file = f"{name}.fp16.onnx"
            variants[name] = replace(entry, precision="fp16", sha256=sha256(data).hexdigest(), file=file)
            (folder / file).write_bytes(data)
    singers = bundle.manifest.singer_embedding_file
    (folder / singers).write_bytes(bundle.read(singers))
    (folder / "bundle.json").write_text(to_json(replace(bundle.manifest, variants={"fp16": variants})))
    return folder


def build(folder: Path, home: Path, precision: str) -> dict:
    """Run the command in a process of its own, whose memory is then known."""
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


def main(result: Path, voice: Path) -> None:
    bundle = open_bundle(voice)
    with tempfile.TemporaryDirectory() as temporary:
        folder, home = half_size(bundle, Path(temporary) / "voice"), Path(temporary) / "home"
        found = {precision: build(folder, home, precision) for precision in ("fp32", "fp16")}
        onnx_bytes = {path.name: path.stat().st_size for path in sorted(folder.glob("*.onnx"))}
    report = {
        "what": "engines of a voice of the authors' sizes with random weights, built ahead of time without a GPU; none "
        "of them has been run. The fp16 graphs are plain conversions that passed no gate. One core; the machine did "
        "other work",
        "command": f"python tests/full_size_engines.py benchmarks/results/{result.name} BUNDLE",
        "hardware": this_machine(),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("tensorrt-rtx", "onnx", "onnxruntime")},
        },
        "commit": commit(),
        "onnx_bytes": onnx_bytes,
        **found,
    }
    result.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
