"""Networks of systems as ONNX graphs, by the exporter that voices go through, kept while they are the same."""

import ast
import hashlib
import importlib.util
import inspect
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from importlib import metadata
from pathlib import Path

import torch
from torch import nn

from ...export.graphs import trace as graphs
from ...runtime.storage import write_whole
from ...runtime.voice import manifest
from ...runtime.voice.bundle import comosvc_home
from ..baselines.steps import SpeedSystem, TimedStep
from .chain import networks
from .engines import ExportedStage

TRACE_SECONDS, TRACE_BATCH = 1.0, 2
"""Neither may make a dimension of 1 of what is free: torch specialises on that."""
UNUSED_DAYS = 7
"""What nobody asked for in that time is removed: graphs of an earlier source are never asked for again."""
_TOOLS = ("torch", "onnx", "onnxscript", "transformers")
_OURS = __name__.partition(".")[0]
_EXPORTER = (graphs.__name__, manifest.__name__)


def cache_folder() -> Path:
    """Where graphs and voices that only benchmarks need are kept."""
    return comosvc_home() / "benchmarks"


def content_key(module: nn.Module, *facts: object) -> str:
    """Hash of all that decides about a graph: weights and settings of `module`, `facts`, and the sources of both."""
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
    """The files of its classes and of the exporter, with all of ours that they import; others' have their version."""
    waiting = {type(part).__module__ for part in module.modules()} | {*_EXPORTER}
    names: set[str] = set()
    while waiting:
        name = waiting.pop()
        names.add(name)
        waiting |= {*_imported(name)} - names
    files = {inspect.getsourcefile(sys.modules[name]) for name in names if not name.startswith("torch.")}
    return {*map(Path, filter(None, files))}


def _imported(name: str) -> Iterator[str]:
    """Loaded modules of ours that a module of ours imports."""
    source = inspect.getsourcefile(sys.modules[name])
    if not name.startswith(f"{_OURS}.") or source is None:
        return
    package = sys.modules[name].__package__
    for node in ast.walk(ast.parse(Path(source).read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            found = (base, *(f"{base}.{alias.name}" for alias in node.names))
            yield from (one for one in found if one in sys.modules)


def mark_used(about: Path) -> None:
    """Note that what this file is about was asked for today."""
    os.utime(about)


def remove_unused() -> None:
    """Delete graphs and voices that nobody asked for in `UNUSED_DAYS`, and what an interrupted run left."""
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
