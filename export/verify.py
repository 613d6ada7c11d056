"""Is a bundle still what was exported?"""

import json
import os

import onnx

from ..runtime.bundle import Bundle, open_bundle
from ..runtime.errors import BundleError
from ..runtime.graph import GRAPHS
from ..runtime.probes import PROBES_FILE, decode_probes
from .archive import sha256
from .assemble import TorchGraphs, measure_parity
from .describe import PARITY_FILE
from .errors import ParityError
from .graphs import check_contract
from .parity import ParityRow, Runner, onnx_runner, require
from .probes import check_probes
from .voice import Voice


def verify(path: str | os.PathLike[str], voice: Voice | None = None) -> list[ParityRow]:
    """Check hashes, contracts and outputs of a bundle, and return the comparisons.

    Without `voice` each graph must give the outputs that torch gave at export, which the bundle holds for a few inputs.
    With the `voice` of the run that it was exported from it is compared with torch at every length and batch.
    Raises `BundleError`, `ExportError` or `ParityError`, naming the file or graph.
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
    return rows + (_against_torch(voice, runners) if voice else [])


def _check_other_files(bundle: Bundle) -> None:
    for name, expected in bundle.manifest.provenance.get("files", {}).items():
        if sha256(bundle.read(name)) != expected:
            raise BundleError(f"{bundle.origin}: {name} is not the file that was exported (its SHA-256 differs)")


def _check_measured(bundle: Bundle) -> None:
    """`parity.json` must speak of the graphs that are here."""
    measured = json.loads(bundle.read(PARITY_FILE))["graphs"]
    for name, entry in bundle.manifest.graphs.items():
        if measured.get(name) != entry.sha256:
            raise ParityError(f"{bundle.origin}: {PARITY_FILE} was not measured on this {name} graph")


def _against_torch(voice: Voice, runners: dict[str, Runner]) -> list[ParityRow]:
    torch_graphs = TorchGraphs.of(voice)
    rows = measure_parity(runners, torch_graphs.runners(), torch_graphs.maker)
    require(rows)
    return rows
