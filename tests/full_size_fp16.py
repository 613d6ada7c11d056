"""FP16 graphs at the authors' sizes, with random weights: what each loses, what stays float32, how large numbers get.

`python tests/full_size_fp16.py RESULT.json`. Needs 4 GB of memory; the voice is the one that `comosvc-bench` times, and
is exported first where that has not been done.

Networks begin with zeros or with weights so small that the biases drown what comes in, and then nothing of it is
compared. Both are replaced by random weights that pass it on.
"""

import json
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from comosvc.benchmarks.report import machine_facts
from comosvc.benchmarks.speed.full_size import AUTHORS_SIZE
from comosvc.export.archive import peak_memory_bytes
from comosvc.export.bundle.describe import commit
from comosvc.export.precision.precision import add_precisions
from comosvc.export.precision.variants import VariantRow, variant_summary
from comosvc.runtime.voice.bundle import PARITY_FILE, open_bundle


def shaken(graph: bytes) -> bytes:
    """The graph with matrices of zeros replaced by normal numbers of scale 0.02, convolutions of small ones enlarged.

    A convolution whose weights are smaller than those that keep the variance of what it is given is brought to that.
    """
    model, rng = onnx.load_from_string(graph), np.random.default_rng(0)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Conv":  # transposed ones are exported as these
            weights = numpy_helper.to_array(tensors[node.input[1]])
            if not weights.any():
                weights = 0.02 * rng.standard_normal(weights.shape)
            elif weights.std() < 0.02:
                weights = weights * (max(weights.std(), weights[0].size ** -0.5) / weights.std())
            tensors[node.input[1]].CopyFrom(numpy_helper.from_array(weights.astype(np.float32), node.input[1]))
    return model.SerializeToString()


def main(result: Path) -> None:
    bundle = open_bundle(AUTHORS_SIZE.ready().model)
    start = time.perf_counter()
    parity = {PARITY_FILE: json.dumps({"graphs": {}, "rows": []}).encode()}
    manifest, files = add_precisions(
        bundle.manifest, parity, ["fp16"], lambda name: shaken(bundle.graph_bytes(name)), bundle.embeddings
    )
    found = json.loads(files[PARITY_FILE])["variants"]["fp16"]
    sizes = {name: len(files[entry.file]) for name, entry in manifest.variants["fp16"].items() if entry.file}
    columns = ("graph", "precision", "measure", "figures", "worst", "budget")
    packages = ("torch", "transformers", "onnx", "onnxruntime", "numpy")
    report = {
        "what": "graphs of the authors' sizes with random weights in fp16 against fp32; the machine did other work",
        "command": f"python tests/full_size_fp16.py benchmarks/results/{result.name}",
        "hardware": machine_facts(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "commit": commit(),
        "seconds": round(time.perf_counter() - start, 1),
        "peak_memory_bytes": peak_memory_bytes(),
        "fp32_bytes": {name: len(bundle.graph_bytes(name)) for name in bundle.manifest.graphs},
        "fp16_bytes": sizes,
        "kept_fp32": found["kept_fp32"],
        "worst": [
            dict(zip(columns, row, strict=True))
            for row in variant_summary([VariantRow(**row) for row in found["rows"]])
        ],
        "graphs": found["facts"],
        "rows": found["rows"],
    }
    result.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
