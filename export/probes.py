"""Reference inputs and outputs kept in the bundle: what torch gave, for whoever has the bundle and no torch weights."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ..runtime.errors import BundleError
from ..runtime.graph import GRAPHS
from .inputs import Arrays, InputMaker
from .parity import ParityRow, Runner, compare

PROBES_FILE = "probes.safetensors"
_SIZES = {
    "content": (2, 2_401), "content_low": (2, 2_401), "pitch": (2, 4_801),
    "acoustic": (2, 23), "acoustic_n": (1, 11), "vocoder": (2, 23),
}  # fmt: skip
"""Batch and length of the probes: together some 300 kB."""
_SEED = 3


@dataclass(frozen=True)
class Probe:
    """One call of a graph and what it must give."""

    graph: str
    inputs: Arrays
    outputs: Arrays

    @property
    def size(self) -> tuple[int, int]:
        """Batch, and length in 16 kHz samples or mel frames."""
        first = self.inputs.get("audio", self.inputs.get("f0_hz"))
        assert first is not None
        return first.shape[0], first.shape[1]


def make_probes(references: Mapping[str, Runner], maker: InputMaker) -> list[Probe]:
    """Probes of every graph; one for each noise level of `acoustic_n`."""
    probes = []
    for name, runner in references.items():
        inputs = maker.make(GRAPHS[name], *_SIZES[name], _SEED)
        probes += [Probe(name, variant, runner(variant)) for variant in _variants(inputs, maker.n_sigmas)]
    return probes


def _variants(inputs: Arrays, n_sigmas: int) -> list[Arrays]:
    if "step_index" not in inputs:
        return [inputs]
    return [{**inputs, "step_index": np.array(index, np.int32)} for index in range(n_sigmas)]


def encode_probes(probes: list[Probe]) -> bytes:
    """A safetensors file; tensors are named `<number>.<graph>.in.<tensor>` and `<number>.<graph>.out.<tensor>`."""
    tensors = {}
    for number, probe in enumerate(probes):
        for side, arrays in (("in", probe.inputs), ("out", probe.outputs)):
            tensors |= {f"{number}.{probe.graph}.{side}.{name}": np.ascontiguousarray(a) for name, a in arrays.items()}
    return save(tensors)


def decode_probes(data: bytes) -> list[Probe]:
    """The inverse of `encode_probes`. Raises `BundleError` for anything else."""
    probes: dict[tuple[int, str], Probe] = {}
    try:
        for key, value in load(data).items():
            number, graph, side, name = key.split(".")
            probe = probes.setdefault((int(number), graph), Probe(graph, {}, {}))
            {"in": probe.inputs, "out": probe.outputs}[side][name] = value
    except (SafetensorError, ValueError, KeyError) as error:
        raise BundleError(f"{PROBES_FILE} is not a file of probes: {error}") from error
    return [probes[key] for key in sorted(probes)]


def check_probes(probes: list[Probe], runners: Mapping[str, Runner]) -> list[ParityRow]:
    """Each probe through its graph, against what is stored."""
    return [compare(probe.graph, runners[probe.graph](probe.inputs), probe.outputs, *probe.size) for probe in probes]
