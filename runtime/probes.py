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
from .graph import GRAPHS

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
    budget, reason = BUDGETS[precision]
    errors: dict[str, float] = {}
    for probe in decode_probes(bundle.read(PROBES_FILE)):
        outputs = graphs[probe.graph].run(probe.inputs)
        for tensor, got in zip(GRAPHS[probe.graph].outputs, outputs, strict=True):
            wanted = probe.outputs[tensor.name].astype(np.float64)
            error = float(np.linalg.norm(got - wanted) / (np.linalg.norm(wanted) or 1.0))
            if not error <= budget:  # nor NaN
                raise ComosvcError(
                    f"self-test failed: {tensor.name} of the {probe.graph} graph in {precision} is {error:.1e} from "
                    f"what torch gave at export, at most {budget:.0e} is allowed ({reason})\n"
                    "hint: precision='fp32', or another provider; comosvc-doctor says what works here"
                )
            errors[probe.graph] = max(errors.get(probe.graph, 0.0), error)
    return errors
