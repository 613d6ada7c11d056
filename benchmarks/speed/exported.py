"""Networks of systems as ONNX graphs, by the exporter that voices go through, kept while they are the same."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import is_dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

import torch
from torch import nn

from ...export.graphs import trace as graphs
from ...runtime.storage import write_whole
from ...runtime.voice.bundle import comosvc_home
from ..baselines.steps import SpeedSystem, TimedStep
from .chain import networks
from .engines import ExportedStage

TRACE_SECONDS, TRACE_BATCH = 1.0, 2
"""Neither may make a free dimension 1: torch specialises on that."""
UNUSED_DAYS = 7
"""Days without use after which a graph is removed: those of earlier sources are never used again."""
_PACKAGE = Path(__file__).parents[2]
_TOOLS = ("torch", "onnx", "onnxscript", "transformers")
_MADE_OF = ("runtime/voice", "training", "export/graphs", "benchmarks/baselines")
"""Folders with the sources of networks and exporter."""


def cache_folder() -> Path:
    """The folder of graphs and voices that only benchmarks need."""
    return comosvc_home() / "benchmarks"


@cache
def source_hash(*folders: str) -> str:
    """Hash of all sources in these folders of the package."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(_PACKAGE.joinpath(folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def content_key(module: nn.Module, *facts: object) -> str:
    """Hash of everything that a graph depends on: weights and settings of `module`, `facts`, sources and packages."""
    digest = hashlib.sha256(repr(facts).encode())
    for name, part in module.named_modules():
        digest.update(f"{name} {type(part).__qualname__} {_settings(part)}".encode())
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    digest.update(source_hash(*_MADE_OF).encode())
    for package in _TOOLS:
        try:
            digest.update(f"{package} {metadata.version(package)}".encode())
        except metadata.PackageNotFoundError:
            continue
    return digest.hexdigest()[:32]


def _settings(part: nn.Module) -> dict[str, object]:
    """Attributes that a trace turns into constants; `training` is always off then."""
    plain = (bool, int, float, str, tuple, list, type(None))
    found = {name: value for name, value in vars(part).items() if isinstance(value, plain) or is_dataclass(value)}
    return {name: value for name, value in found.items() if name != "training"}


def mark_used(about: Path) -> None:
    """Note the use of a graph or voice today."""
    os.utime(about)


def remove_unused() -> None:
    """Delete graphs and voices that were not used for `UNUSED_DAYS`, and leftovers of interrupted runs."""
    oldest = time.time() - 86_400 * UNUSED_DAYS
    for folder in (cache_folder() / "graphs", cache_folder() / "voices"):
        for path in folder.glob("*"):
            about = folder / f"{path.name.removesuffix('.onnx').removesuffix('.json')}.json"
            if (about if about.is_file() else path).stat().st_mtime < oldest:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def export_stage(stage: TimedStep, module: nn.Module | None = None) -> ExportedStage:
    """The graph of a stage, traced unless it is there. Raises `ExportError` if it breaks its contract."""
    module = module or stage.build()
    path = cache_folder() / "graphs" / f"{content_key(module, stage.graph)}.onnx"
    about = path.with_suffix(".json")
    if path.is_file() and about.is_file():
        mark_used(about)
        return ExportedStage(stage.name, path, json.loads(about.read_text("utf-8"))["seconds"], was_cached=True)
    start = time.perf_counter()
    example = {name: torch.from_numpy(value) for name, value in stage.inputs(TRACE_SECONDS, TRACE_BATCH).items()}
    graph = graphs.trace(stage.graph, module, example)
    seconds = time.perf_counter() - start
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, graph.SerializeToString(deterministic=True))
    about.write_text(json.dumps({"stage": stage.name, "seconds": seconds}), "utf-8")  # last: both are there then
    remove_unused()
    return ExportedStage(stage.name, path, seconds, was_cached=False)


def export_system(make: Callable[[], SpeedSystem]) -> dict[str, ExportedStage]:
    """The graphs of a system by stage."""
    return {stage.name: export_stage(stage) for stage in networks(make())}
