"""The import at the authors' sizes, with random weights: time, memory, file sizes, and the formulas in float64.

`python tests/full_size_import.py RESULT.json [FOLDER]`. Needs some 3 GB of disk, 6 GB of memory and ten minutes.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnxruntime
from foreign_files import (
    FULL,
    comosvc_weights,
    contentvec_weights,
    vocoder_weights,
    write_comosvc,
    write_contentvec,
    write_m4singer_vocoder,
)
from reference import authors

from comosvc.benchmarks.report import Figures, Provenance, Row, save
from comosvc.runtime.voice.bundle import open_bundle

RATE, HOP, FRAMES = 24_000, 128, 61
NAME = "comosvc-export import of files of the authors' sizes with random weights; the machine did other work"
STEPS = {"student": (1, 4), "teacher": (1, 4, 50)}


def import_voice(folder: Path, kind: str) -> dict:
    """Run the command in a process of its own, so that its peak memory is its own."""
    bundle = folder / f"{kind}.comosvc"
    parts = ["--como", folder / kind / "model_800000.pt", "--vocoder", next((folder / "vocoder").glob("*.ckpt"))]
    parts += ["--content", folder / "content.pt", "--consent", "random weights", "--force", "-o", bundle]
    start = time.perf_counter()
    subprocess.run([Path(sys.executable).with_name("comosvc-export"), "import", *map(str, parts)], check=True)
    manifest = open_bundle(bundle).manifest
    rows = json.loads(open_bundle(bundle).read("parity.json"))["rows"]
    worst = {row["graph"]: max(r["relative"] for r in rows if r["graph"] == row["graph"]) for row in rows}
    return {
        "seconds": round(time.perf_counter() - start, 1),
        "peak_memory_bytes": manifest.provenance["export"]["peak_memory_bytes"],
        "bundle_bytes": bundle.stat().st_size,
        "graph_bytes": {name: len(open_bundle(bundle).graph_bytes(name)) for name in manifest.graphs},
        "onnx_against_torch_worst_relative_error": worst,
        "against_float64_formulas": {str(steps): against_formulas(bundle, kind, steps) for steps in STEPS[kind]},
    }


def against_formulas(path: Path, kind: str, steps: int) -> dict[str, float]:
    """Relative errors of content, mel and audio of one clip, everything injected."""
    bundle, rng = open_bundle(path), np.random.default_rng(steps)
    run = {name: session(bundle.graph_bytes(name)) for name in ("content", "acoustic", "acoustic_n", "vocoder")}
    audio = (0.3 * rng.standard_normal(FRAMES * HOP * 2 // 3)).astype(np.float32)
    f0, volume = rng.uniform(80, 700, FRAMES), rng.uniform(0, 0.3, FRAMES)
    noises = rng.standard_normal((steps, FRAMES, 80)).astype(np.float32)
    weights = float64(comosvc_weights(FULL, kind == "student"))
    units = run["content"]({"audio": audio[None]})
    wanted_units = authors.contentvec(float64(contentvec_weights(FULL)), audio.astype(np.float64), 12, 16)
    cond = authors.condition(weights, wanted_units, f0, volume, 2)
    condition = {
        "content": units,
        "content_index": (np.arange(FRAMES) * units.shape[1] // FRAMES).astype(np.int32)[None],
        "f0_hz": f0.astype(np.float32)[None],
        "loudness": volume.astype(np.float32)[None],
        "singer": bundle.embeddings[2:3],
    }
    mel = sample(run, bundle.manifest, condition, noises)
    wanted = [noise.astype(np.float64) for noise in noises]
    if kind == "teacher":
        wanted_mel = authors.teacher_mel(weights, cond, wanted[0], steps)
    else:
        wanted_mel = authors.student_mel(weights, cond, wanted)
    source = authors.sines(f0, rng.random(9), rng.standard_normal((FRAMES * HOP, 9)), HOP, RATE)
    sung = run["vocoder"]({"mel": mel, "source": source.astype(np.float32)[None]})
    shape = authors.Vocoder(
        FULL.upsample_rates, FULL.resblock_kernels, (FULL.dilations,) * len(FULL.resblock_kernels), True
    )
    vocoder = float64(vocoder_weights(FULL, FULL.upsample_rates, FULL.upsample_kernels, 80))
    return {
        "content": relative(units[0], wanted_units),
        "mel": relative(mel[0], wanted_mel),
        "audio": relative(sung[0], authors.vocode(vocoder, shape, wanted_mel, source)),
    }


def sample(run: dict, manifest, condition: dict, noises: np.ndarray) -> np.ndarray:
    """The runtime's own sampling with the graphs called directly."""
    from comosvc.runtime.conversion.generated import make_step_noise

    schedule = manifest.model.schedules.get(str(len(noises)), ())
    mel = run["acoustic"]({**condition, "noise": noises[:1]})
    further = make_step_noise(manifest.model, schedule, noises[0], lambda step: noises[step])
    for step, index in enumerate(schedule, start=1):
        again = {"mel": mel, "noise": further(step, mel[0])[None], "step_index": np.array(index, np.int32)}
        mel = run["acoustic_n"]({**condition, **again})
    return mel


def session(graph: bytes):
    made = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return lambda inputs: made.run(None, inputs)[0]


def float64(weights) -> dict[str, np.ndarray]:
    return {name: tensor.numpy().astype(np.float64) for name, tensor in weights.items()}


def relative(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(f"{np.linalg.norm(found - wanted) / np.linalg.norm(wanted):.2e}")


def main(result: Path, folder: Path) -> None:
    os.environ["COMOSVC_HOME"] = str(folder / "home")
    write_comosvc(folder / "student", FULL)
    write_comosvc(folder / "teacher", FULL, student=False)
    write_m4singer_vocoder(folder / "vocoder", FULL)
    write_contentvec(folder / "content.pt", FULL)
    found = {kind: import_voice(folder, kind) for kind in STEPS}
    blobs = {path.name[:12]: path.stat().st_size for path in (folder / "home" / "blobs").iterdir()}
    inputs = {p.relative_to(folder).as_posix(): p.stat().st_size for p in folder.rglob("*.*t") if p.is_file()}
    provenance = Provenance.here(f"python tests/full_size_import.py benchmarks/results/{result.name}")
    provenance.versions.update({name: version(name) for name in ("transformers", "onnx", "onnxscript")})
    details = {"input_bytes": inputs, "clip_frames": FRAMES, **found, "shared_content_encoders": blobs}
    save(Figures(provenance=provenance, rows=rows_of(found), voice={"name": NAME}, details=details), result)


def rows_of(found: dict[str, dict]) -> tuple[Row, ...]:
    rows = []
    for kind, figures in found.items():
        worst = max(figures["onnx_against_torch_worst_relative_error"].values())
        formulas = max(error for errors in figures["against_float64_formulas"].values() for error in errors.values())
        rows += [
            Row(what=f"{kind}: time", value=figures["seconds"], unit="s"),
            Row(what=f"{kind}: peak memory", value=figures["peak_memory_bytes"] / 1e9, unit="GB"),
            Row(what=f"{kind}: bundle", value=figures["bundle_bytes"] / 1e6, unit="MB"),
            Row(what=f"{kind}: worst graph against torch, relative error", value=worst),
            Row(what=f"{kind}: worst array against the formulas in float64, relative error", value=formulas),
        ]
    return tuple(rows)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) > 2 else temporary))
