"""Checks that a bundle is unchanged since its export."""

import os
from collections.abc import Callable

import onnx

from ...runtime.conversion.shapes import check_outputs, grid_of
from ...runtime.providers.self_test import read_probes
from ...runtime.voice.bundle import PARITY_FILE, Bundle, open_bundle, read_parity
from ...runtime.voice.graphs import GRAPHS
from ...runtime.voice.manifest import GraphEntry
from ..errors import ParityError, as_bundle_error
from ..graphs.inputs import Arrays
from ..graphs.parity import ParityRow, Probe, Runner, check_probes, onnx_runner, require
from ..graphs.trace import check_contract
from ..precision.precision import find_precisions
from ..precision.variants import VariantRow, figures, require_budgets
from .assemble import TorchGraphs, measure_parity
from .voice import TrainedVoice


def verify(path: str | os.PathLike[str], voice: TrainedVoice | None = None) -> list[ParityRow | VariantRow]:
    """Check hashes, contracts and outputs of a bundle, and return the comparisons.

    Without `voice` each graph must give the outputs that torch gave at export, which the bundle holds for a few inputs.
    With the `voice` of the run that it was exported from it is compared with torch at every length and batch.
    Graphs in other precisions must give those outputs within their budgets. Raises `BundleError`, `ExportError` or
    `ParityError`, naming the file or graph.
    """
    bundle = open_bundle(path)
    bundle.verify()
    _check_measured(bundle)
    probes, graphs = read_probes(bundle), bundle.manifest.graphs
    runners = {name: _runner(bundle, name, entry, onnx_runner) for name, entry in graphs.items()}
    rows = check_probes(probes, runners)
    require(rows)
    variants = _check_variants(bundle, probes)
    require_budgets(variants)
    return [*rows, *(_against_torch(voice, runners) if voice else []), *variants]


def _check_measured(bundle: Bundle) -> None:
    """Raise `ParityError` unless `parity.json` was measured on these graphs, in every precision."""
    measured = read_parity(bundle)
    for precision, entries in {"fp32": bundle.manifest.graphs, **bundle.manifest.variants}.items():
        for name, entry in entries.items():
            if measured.measured(precision).get(name) != entry.sha256:
                which = name if precision == "fp32" else f"{precision} {name}"
                raise ParityError(f"{bundle.origin}: {PARITY_FILE} was not measured on this {which} graph")


def _runner(bundle: Bundle, name: str, entry: GraphEntry, open_runner: Callable[[bytes], Runner]) -> Runner:
    """Runs the graph of an entry. Its outputs follow the contract; errors of libraries become `BundleError`."""
    what = f"{bundle.origin}: the {entry.precision} {name} graph"
    with as_bundle_error(what):
        data = bundle.entry_bytes(name, entry)
        check_contract(GRAPHS[name], onnx.load_from_string(data))
        runner = open_runner(data)

    def run(inputs: Arrays) -> Arrays:
        with as_bundle_error(what):
            found = runner(inputs)
        shapes = {tensor: inputs[tensor].shape for tensor, _, _ in entry.inputs}
        check_outputs(grid_of(bundle.manifest, name), entry, shapes, [found[tensor] for tensor, _, _ in entry.outputs])
        return found

    return run


def _check_variants(bundle: Bundle, probes: list[Probe]) -> list[VariantRow]:
    rows = []
    for precision in find_precisions(bundle.manifest.variants):
        for name, entry in bundle.manifest.variants[precision.name].items():
            run = _runner(bundle, name, entry, precision.runner)
            for probe in (probe for probe in probes if probe.graph == name):
                got = run(probe.inputs)
                rows += figures(name, precision, got, probe.outputs, probe.size, bundle.manifest.audio)
    return rows


def _against_torch(voice: TrainedVoice, runners: dict[str, Runner]) -> list[ParityRow]:
    torch_graphs = TorchGraphs.of(voice)
    rows = measure_parity(runners, torch_graphs.runners(), torch_graphs.maker)
    require(rows)
    return rows
