"""Networks of systems as ONNX graphs, by the exporter that voices go through, kept while they are the same."""

import hashlib
import inspect
import json
import sys
import time
from collections.abc import Callable
from dataclasses import is_dataclass
from importlib import metadata
from pathlib import Path

import torch
from torch import nn

from ... import export, training
from ...export import graphs
from ...runtime.bundle import comosvc_home
from .chain import networks
from .onnx_chain import ExportedStage
from .stage import SpeedSystem, Stage

TRACE_SECONDS, TRACE_BATCH = 1.0, 2
"""Neither may make a dimension of 1 of what is free: torch specialises on that."""
_TOOLS = ("torch", "onnx", "onnxscript", "transformers")


def cache_folder() -> Path:
    """Where graphs and voices that only benchmarks need are kept."""
    return comosvc_home() / "benchmarks"


def content_key(module: nn.Module, *facts: object) -> str:
    """Hash of all that decides about a graph: weights, classes and settings of `module`, `facts`, and the sources."""
    digest = hashlib.sha256(repr(facts).encode())
    for name, part in module.named_modules():
        digest.update(f"{name} {type(part).__qualname__} {_settings(part)}".encode())
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    for path in sorted(_sources(module)):
        digest.update(path.read_bytes())
    for package in _TOOLS:
        try:
            digest.update(f"{package} {metadata.version(package)}".encode())
        except metadata.PackageNotFoundError:
            continue
    return digest.hexdigest()[:32]


def _settings(part: nn.Module) -> dict[str, object]:
    """Attributes that a trace turns into constants. Whether it trains is none: a trace is of what does not."""
    plain = (bool, int, float, str, tuple, list, type(None))
    found = {name: value for name, value in vars(part).items() if isinstance(value, plain) or is_dataclass(value)}
    return {name: value for name, value in found.items() if name != "training"}


def _sources(module: nn.Module) -> set[Path]:
    """The files of its classes, of our networks and of the exporter; torch's own are known by its version."""
    names = {type(part).__module__ for part in module.modules()}
    files = {inspect.getsourcefile(sys.modules[name]) for name in names if not name.startswith("torch.")}
    folders = (Path(folder) for package in (training, export) for folder in package.__path__)
    return {*map(Path, filter(None, files)), *(path for folder in folders for path in folder.glob("*.py"))}


def export_stage(stage: Stage, module: nn.Module | None = None) -> ExportedStage:
    """The graph of a stage, traced unless it is there. Raises `ExportError` if it breaks its contract."""
    module = module or stage.build()
    path = cache_folder() / "graphs" / f"{content_key(module, stage.graph)}.onnx"
    about = path.with_suffix(".json")
    if path.is_file() and about.is_file():
        return ExportedStage(stage.name, path, json.loads(about.read_text("utf-8"))["seconds"], was_cached=True)
    start = time.perf_counter()
    example = {name: torch.from_numpy(value) for name, value in stage.inputs(TRACE_SECONDS, TRACE_BATCH).items()}
    graph = graphs.trace(stage.graph, module, example)
    seconds = time.perf_counter() - start
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_bytes(graph.SerializeToString(deterministic=True))
    partial.replace(path)
    about.write_text(json.dumps({"stage": stage.name, "seconds": seconds}), "utf-8")  # last: both are there then
    return ExportedStage(stage.name, path, seconds, was_cached=False)


def export_system(make: Callable[[], SpeedSystem]) -> dict[str, ExportedStage]:
    """The graphs of a system by stage."""
    return {stage.name: export_stage(stage) for stage in networks(make())}
