"""Is a bundle still what was exported?"""

import json
import os

import onnx

from ..runtime.bundle import Bundle, open_bundle
from ..runtime.bundle_info import PARITY_FILE
from ..runtime.errors import BundleError
from ..runtime.graph import GRAPHS
from ..runtime.probes import PROBES_FILE, decode_probes
from .archive import sha256
from .assemble import TorchGraphs, measure_parity
from .errors import ParityError
from .graphs import check_contract
from .parity import ParityRow, Runner, onnx_runner, require
from .precision import find_precisions
from .probes import Probe, check_probes
from .variants import VariantRow, figures, require_budgets
from .voice import Voice


def verify(path: str | os.PathLike[str], voice: Voice | None = None) -> list[ParityRow | VariantRow]:
    """Check hashes, contracts and outputs of a bundle, and return the comparisons.

    Without `voice` each graph must give the outputs that torch gave at export, which the bundle holds for a few inputs.
    With the `voice` of the run that it was exported from it is compared with torch at every length and batch.
    Graphs in other precisions must give those outputs within their budgets. Raises `BundleError`, `ExportError` or
    `ParityError`, naming the file or graph.
    """
    bundle = open_bundle(path)
    bundle.verify()
    _check_other_files(bundle)
    graphs = {name: bundle.graph_bytes(name) for name in bundle.manifest.graphs}
    for name, data in graphs.items():
        check_contract(GRAPHS[name], onnx.load_from_string(data))
    _check_measured(bundle)
    runners = {name: onnx_runner(data) for name, data in graphs.items()}
    probes = decode_probes(bundle.read(PROBES_FILE))
    if missing := sorted(graphs.keys() - {probe.graph for probe in probes}):
        raise BundleError(f"{bundle.origin}: {PROBES_FILE} has no probe of {', '.join(missing)}")
    rows = check_probes(probes, runners)
    require(rows)
    variants = _check_variants(bundle, probes)
    require_budgets(variants)
    return [*rows, *(_against_torch(voice, runners) if voice else []), *variants]


def _check_other_files(bundle: Bundle) -> None:
    for name, expected in bundle.manifest.provenance.get("files", {}).items():
        if sha256(bundle.read(name)) != expected:
            raise BundleError(f"{bundle.origin}: {name} is not the file that was exported (its SHA-256 differs)")


def _check_measured(bundle: Bundle) -> None:
    """`parity.json` must speak of the graphs that are here, in every precision."""
    measured = json.loads(bundle.read(PARITY_FILE))
    records = {"fp32": measured, **measured.get("variants", {})}
    for precision, entries in {"fp32": bundle.manifest.graphs, **bundle.manifest.variants}.items():
        for name, entry in entries.items():
            if records.get(precision, {}).get("graphs", {}).get(name) != entry.sha256:
                which = name if precision == "fp32" else f"{precision} {name}"
                raise ParityError(f"{bundle.origin}: {PARITY_FILE} was not measured on this {which} graph")


def _check_variants(bundle: Bundle, probes: list[Probe]) -> list[VariantRow]:
    rows = []
    for precision in find_precisions(bundle.manifest.variants):
        for name, entry in bundle.manifest.variants[precision.name].items():
            data = bundle.entry_bytes(name, entry)
            check_contract(GRAPHS[name], onnx.load_from_string(data))
            run = precision.runner(data)
            for probe in (probe for probe in probes if probe.graph == name):
                got = run(probe.inputs)
                rows += figures(name, precision, got, probe.outputs, probe.size, bundle.manifest.audio)
    return rows


def _against_torch(voice: Voice, runners: dict[str, Runner]) -> list[ParityRow]:
    torch_graphs = TorchGraphs.of(voice)
    rows = measure_parity(runners, torch_graphs.runners(), torch_graphs.maker)
    require(rows)
    return rows
