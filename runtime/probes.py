"""Inputs and what torch gave for them, kept in the bundle: does an engine give that too, in its precision, here?"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from .bundle import Bundle
from .calls import Runnable
from .errors import BundleError, ComosvcError
from .framing import ceil_div
from .graph import GRAPHS
from .manifest import Manifest
from .providers import cpu

PROBES_FILE = "probes.safetensors"
BUDGETS = {
    "fp32": (1e-3, "the same arithmetic in another order gives 2e-6, TF32 on a GPU 5e-4"),
    "bf16": (0.05, "8 bits of mantissa: 1.5e-2 was seen; wrong weights or a wrong layout give 0.5 and more"),
    "fp16": (0.05, "as bf16, for the graphs that pass the export's own, narrower budgets"),
    "int8": (0.05, "as fp16; what is not in 8 bits may be in bf16 then"),
}
"""By precision: the largest ||measured - torch|| / ||torch|| of any output, and why."""


@dataclass(frozen=True)
class Probe:
    """One call of a graph and what it must give."""

    graph: str
    inputs: dict[str, NDArray]
    outputs: dict[str, NDArray]
    given_by: str = "torch gave at export"

    @property
    def size(self) -> tuple[int, int]:
        """Batch, and length in 16 kHz samples or mel frames."""
        first = self.inputs.get("audio", self.inputs.get("f0_hz"))
        assert first is not None
        return first.shape[0], first.shape[1]


def decode_probes(data: bytes) -> list[Probe]:
    """The probes of a safetensors file, its tensors named `<number>.<graph>.in.<tensor>` and `...out.<tensor>`.

    Raises `BundleError` for anything else.
    """
    probes: dict[tuple[int, str], Probe] = {}
    try:
        for key, value in load(data).items():
            number, graph, side, name = key.split(".")
            probe = probes.setdefault((int(number), graph), Probe(graph, {}, {}))
            # numpy's `ascontiguousarray`, which wrote them, makes a scalar (1,).
            value = value.reshape(()) if name == "step_index" else value
            {"in": probe.inputs, "out": probe.outputs}[side][name] = value
    except (SafetensorError, ValueError, KeyError) as error:
        raise BundleError(f"{PROBES_FILE} is not a file of probes: {error}") from error
    return [probes[key] for key in sorted(probes)]


def probe_errors(bundle: Bundle, graphs: Mapping[str, Runnable], precision: str) -> dict[str, float]:
    """The largest relative error of each graph on the bundle's probes; nothing for a bundle that has none.

    Raises `ComosvcError` for one beyond the precision's budget.
    """
    if PROBES_FILE not in bundle.manifest.provenance.get("files", {}):
        return {}
    errors: dict[str, float] = {}
    for probe in decode_probes(bundle.read(PROBES_FILE)):
        error = _error(bundle, graphs[probe.graph], probe, precision)
        errors[probe.graph] = max(errors.get(probe.graph, 0.0), error)
    return errors


def steps_at_end(manifest: Manifest, graph: str) -> int:
    """How many of an output's last frames, or of the vocoder's samples, depend on what follows the input's end.

    They are others where the input is padded: the graph pads each of its layers with zeros, and those are no silence.
    """
    spec, context = manifest.audio, getattr(manifest.context, graph.removesuffix("_n"))
    overhang = ceil_div(round(context.window_ms * spec.content_sample_rate), 1000 * spec.content_hop_length)
    frames = 1 + overhang + context.future  # the first: one that the end cuts
    return frames * (spec.hop_length if graph == "vocoder" else 1)


def _error(bundle: Bundle, graph: Runnable, probe: Probe, precision: str) -> float:
    """The largest of any output. Where `graph` pads the probe, only what cannot hear its end is compared."""
    budget, reason = BUDGETS[precision]
    names, at_end, errors = [tensor.name for tensor in GRAPHS[probe.graph].outputs], 0, [0.0]
    outputs = dict(zip(names, graph.run(probe.inputs), strict=True))
    if any(outputs[name].shape[1] > probe.outputs[name].shape[1] for name in names):
        at_end = steps_at_end(bundle.manifest, probe.graph)
    shortest = min(probe.outputs[name].shape[1] for name in names)
    if shortest <= at_end:
        return _error(bundle, graph, _lengthened(bundle, probe, 1 + ceil_div(at_end, shortest)), precision)
    for name in names:
        wanted = probe.outputs[name].astype(np.float64)
        wanted = wanted[:, : wanted.shape[1] - at_end]
        error = float(np.linalg.norm(outputs[name][:, : wanted.shape[1]] - wanted) / (np.linalg.norm(wanted) or 1.0))
        if not error <= budget:  # nor NaN
            raise ComosvcError(
                f"self-test failed: {name} of the {probe.graph} graph in {precision} is {error:.1e} from "
                f"what {probe.given_by}, at most {budget:.0e} is allowed ({reason})\n"
                "hint: precision='fp32', or another provider; comosvc-doctor says what works here"
            )
        errors.append(error)
    return max(errors)


def _lengthened(bundle: Bundle, probe: Probe, times: int) -> Probe:
    """The probe repeated, with what the CPU gives for that in fp32, once it has given what torch gave for the probe."""
    entry = bundle.manifest.graphs[probe.graph]
    reference = cpu.open_graph(bundle, probe.graph, entry, None)
    _error(bundle, reference, probe, "fp32")
    along = {name for name, _, dims in entry.inputs if len(dims) > 1 and isinstance(dims[1], str)}
    inputs = {n: np.concatenate([a] * times, axis=1) if n in along else a for n, a in probe.inputs.items()}
    outputs = zip(GRAPHS[probe.graph].outputs, reference.run(inputs), strict=True)
    return Probe(probe.graph, inputs, {tensor.name: output for tensor, output in outputs}, "the CPU gives in fp32")
