"""TensorRT engines of a voice's graphs: built, found again, and loaded only where they fit.

Networks are strongly typed: an engine computes in FP16 if its ONNX graph says FP16; there is no flag. TF32 is off, so
that fp32 is fp32.
"""

import logging
import os
import shlex
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from ...conversion.shapes import NO_CLIPS, input_shapes
from ...errors import CancelledError, EngineError, NoEnginesError
from ...storage import sha256, write_whole
from ...voice.bundle import Bundle
from ...voice.manifest import GraphEntry
from .cache import (
    EngineRecord,
    PlanEntry,
    Plans,
    can_write,
    engine_folders,
    find_engines,
    other_engines,
    publish,
    read_plans,
)
from .target import BuildTarget, EngineSpec, compute_capabilities, library

log = logging.getLogger(__name__)

OPTIONAL_GRAPHS = ("pitch",)
"""Graphs that ONNX Runtime computes where a flavour cannot build them; all others are required."""
BUILD = "COMOSVC_BUILD_ENGINES"
"""Environment variable. At 1, a voice without engines builds them when it is opened, which takes minutes."""
Progress = Callable[[str, float], Any]
"""Called with the graph and the progress of its build, 0 to 1; returning False cancels (`CancelledError`)."""


@dataclass(frozen=True)
class BuildReport:
    """Result of a build. `notes`: departures from the request. `was_there`: nothing had to be built."""

    folder: Path
    record: EngineRecord
    was_there: bool = False
    notes: tuple[str, ...] = ()


def build_engines(
    bundle: Bundle,
    spec: EngineSpec,
    *,
    into_bundle: bool = False,
    rebuild: bool = False,
    progress: Progress | None = None,
) -> BuildReport:
    """Build the engines of `spec` unless they exist and are sound. Raises `EngineError` or `CancelledError`."""
    folders = engine_folders(bundle, into_bundle)
    # Engines requested inside the bundle are not taken from the cache, unless the bundle cannot be written to.
    searched = folders[:1] if into_bundle and can_write(folders[0]) else folders
    if not rebuild and (there := find_engines(searched, spec.fingerprint)) is not None:
        found = read_plans(there, spec.fingerprint, _repair(bundle, spec, there))
        return BuildReport(there, found.record, was_there=True)
    trt, start = library(spec.target.flavour), time.perf_counter()
    with publish(folders, spec.fingerprint, rebuild) as new:
        plans: dict[str, PlanEntry] = {}
        not_built: dict[str, str] = {}
        timing = _timing_cache(new.home, spec.target)
        for name, entry in bundle.manifest.entries(spec.precision).items():
            try:
                plan, plans[name] = _build(trt, name, entry, bundle.entry_bytes(name, entry), spec, timing, progress)
            except EngineError as error:
                if name not in OPTIONAL_GRAPHS:
                    raise
                not_built[name] = str(error)
                log.warning("%s", error)
                continue
            new.write(plans[name].file, plan)
        record = EngineRecord(
            fingerprint=spec.fingerprint,
            voice=bundle.manifest.name,
            **vars(spec.target),
            precision=spec.precision,
            profiles=spec.profiles,
            plans=plans,
            not_built=not_built,
            seconds=round(time.perf_counter() - start, 3),
        )
        new.write_record(record)
    return BuildReport(new.home / spec.fingerprint, record, notes=new.notes)


def load_engines(bundle: Bundle, specs: list[EngineSpec], build: bool, any_use: bool = True) -> Plans:
    """The engines that fit one of `specs`, their hashes compared; with `build` those of the first are built if missing.

    Without `build`, engines of fewer uses fit as well: with `any_use` also those that are too short for some calls,
    which are errors then. Raises `NoEnginesError`, or `EngineError` for damaged engines, which are never rebuilt here.
    """
    folders = engine_folders(bundle, into_bundle=True)
    for spec in specs if build else _fewer_uses(specs, any_use):
        if (folder := find_engines(folders, spec.fingerprint)) is not None:
            plans = read_plans(folder, spec.fingerprint, _repair(bundle, spec, folder))
            return replace(plans, build_all=build_command(bundle, specs[0]))
    why = _why_none(bundle, specs[0], folders)
    if not build:
        raise NoEnginesError(
            f"{why}\nhint: {build_command(bundle, specs[0])}\n"
            f"or set {BUILD}=1, and they are built when the voice is opened, which takes minutes"
        )
    log.warning("%s; building them now, once", why)
    report = build_engines(bundle, specs[0], progress=_log_progress())
    return read_plans(report.folder, specs[0].fingerprint, _repair(bundle, specs[0], report.folder))


def builds_when_opened() -> bool:
    """Whether the environment asks for builds when a voice is opened."""
    return os.environ.get(BUILD) == "1"


def build_command(bundle: Bundle, spec: EngineSpec, *options: str) -> str:
    """The command that builds these engines on this machine."""
    words = ["comosvc-export", "engines", bundle.origin, "--flavour", spec.target.flavour]
    words += ["--precision", spec.precision, "--profile", ",".join(spec.profiles), *options]
    usual = bundle.given_home is None or str(bundle.given_home) == os.environ.get("COMOSVC_HOME")
    return ("" if usual else f"COMOSVC_HOME={shlex.quote(str(bundle.given_home))} ") + shlex.join(words)


def _repair(bundle: Bundle, spec: EngineSpec, folder: Path) -> str:
    """The command that replaces the engines in `folder`."""
    inside = folder.parent.parent == Path(bundle.origin)
    return build_command(bundle, spec, *(["--into-bundle"] if inside else []), "--rebuild")


def _fewer_uses(specs: list[EngineSpec], any_use: bool) -> Iterator[EngineSpec]:
    """`specs` for all of their uses, then for fewer, longer ones first: engines of clips also hold calls of streams."""
    uses = list(specs[0].profiles)
    for count in range(len(uses), 0, -1):
        for chosen in combinations(reversed(uses), count):
            for spec in specs if any_use or chosen[0] not in NO_CLIPS else ():
                yield replace(spec, profiles={use: spec.profiles[use] for use in reversed(chosen)})


def _why_none(bundle: Bundle, spec: EngineSpec, folders: list[Path]) -> str:
    """The error that there are no engines, with a list of the voice's other engines."""
    wanted = f"{spec.target}, {spec.precision}, profiles {', '.join(spec.profiles)}"
    others = [record for record in other_engines(folders) if record.voice == bundle.manifest.name]
    if not others:
        return f"{bundle.origin} has no engines for {wanted}"
    lines = [f"those of {bundle.origin} are not for {wanted}:"]
    for record in others:
        had = BuildTarget(record.flavour, record.version, record.gpu, record.compute_capabilities)
        same = all(record.plans[name].onnx_sha256 == sha for name, sha in spec.graphs.items() if name in record.plans)
        graphs = "" if same else ", from other graphs"
        lines.append(
            f"  {record.fingerprint}: {had}, {record.precision}, profiles {', '.join(record.profiles)}{graphs}"
        )
    return "\n".join(lines)


def _log_progress() -> Progress:
    logged: set[str] = set()

    def progress(graph: str, share: float) -> None:
        if graph not in logged:
            logged.add(graph)
            log.warning("building the engine of %s", graph)

    return progress


# --- One graph


def _build(
    trt: Any,
    name: str,
    entry: GraphEntry,
    model: bytes,
    spec: EngineSpec,
    timing: Path | None,
    progress: Progress | None,
) -> tuple[memoryview, PlanEntry]:
    start, said = time.perf_counter(), make_logger(trt)
    builder = trt.Builder(said)
    if not builder:
        raise EngineError(f"no builder for the {name} graph: {said.errors()}")
    network, parser = parse(trt, builder, name, model, said)
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    if spec.target.flavour == "rtx":
        members = compute_capabilities(trt)
        config.num_compute_capabilities = len(spec.target.compute_capabilities)
        for index, capability in enumerate(spec.target.compute_capabilities):
            config.set_compute_capability(getattr(trt.ComputeCapability, members[capability]), index)
    for use, graphs in spec.profiles.items():
        limits = builder.create_optimization_profile()
        for tensor, sizes in input_shapes(entry, graphs[name]).items():
            limits.set_shape(tensor, *sizes)
        if config.add_optimization_profile(limits) < 0:
            raise EngineError(f"the {name} graph does not take profile {use}: {said.errors()}")
    monitor = _monitor(trt, name, progress)
    config.progress_monitor = monitor
    if timing is not None:
        cache = config.create_timing_cache(timing.read_bytes() if timing.is_file() else b"")
        config.set_timing_cache(cache, False)
    plan = builder.build_serialized_network(network, config)
    del parser  # not before: it owns weights that the network points to
    if monitor.cancelled:
        raise CancelledError(f"cancelled while the engine of {name} was built")
    if progress is not None:
        progress(name, 1.0)
    if plan is None:
        raise EngineError(f"{spec.target.flavour} cannot build the {name} graph: {said.errors()}")
    if timing is not None:
        write_whole(timing, bytes(config.get_timing_cache().serialize()))
    data = memoryview(plan)
    built = PlanEntry(
        file=f"{name}.plan",
        sha256=sha256(data),
        size_bytes=plan.nbytes,
        onnx_sha256=entry.sha256,
        seconds=round(time.perf_counter() - start, 3),
        layers=network.num_layers,
        layer_types=layer_types(network),
    )
    return data, built


def _timing_cache(home: Path, target: BuildTarget) -> Path | None:
    """File of the tactics timed in earlier builds for one GPU and one full TensorRT; RTX times nothing."""
    if target.flavour == "rtx":
        return None
    words = "".join(letter if letter.isalnum() else "-" for letter in f"{target.version}-{target.gpu}")
    return home / f"timing-{words}.cache"


def parse(trt: Any, builder: Any, name: str, model: bytes, said: Any) -> tuple[Any, Any]:
    """The graph as a network. Raises `EngineError` with the parser's errors."""
    # Required before TensorRT 11, where it is the only way and the flag is ignored.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, said)
    if not parser.parse(model):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        found = "; ".join(f"{e.node_operator() or 'graph'} {e.node_name()}: {e.desc()}" for e in errors)
        raise EngineError(f"the {name} graph cannot be parsed: {found or said.errors()}")
    return network, parser


def layer_types(network: Any) -> dict[str, int]:
    """Number of layers by element type of their output; an FP16 engine has layers in HALF."""
    outputs = (network.get_layer(index).get_output(0) for index in range(network.num_layers))
    return dict(Counter(output.dtype.name for output in outputs if output is not None))


def make_logger(trt: Any) -> Any:
    """A logger of TensorRT that passes on to `logging` and keeps errors: TensorRT reports errors only there."""

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self._errors.append(message)
            log.debug("%s", message)

        def errors(self) -> str:
            return "; ".join(self._errors) or "it does not say why"

    return Logger()


def _monitor(trt: Any, graph: str, progress: Progress | None) -> Any:
    """Calls `progress` with the share of the outermost phase; a nested phase adds its share of one step."""

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.cancelled, self._share = False, 0.0
            self._phases: dict[str | None, tuple[str | None, int]] = {}
            self._done: dict[str | None, float] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._phases[phase_name] = parent_phase, max(1, num_steps)
            self._done[phase_name] = 0.0

        def phase_finish(self, phase_name: str) -> None:
            self._phases.pop(phase_name, None)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._done[phase_name] = step + 1.0
            share: float = 0.0
            name: str | None = phase_name
            while name in self._phases:
                parent, steps = self._phases[name]
                share, name = min(1.0, (self._done[name] + share) / steps), parent
            self._share = max(self._share, share)
            if progress is not None and progress(graph, self._share) is False:
                self.cancelled = True
            return not self.cancelled

    return Monitor()
