"""Reference inputs and outputs kept in the bundle: what torch gave, for whoever has the bundle and no torch weights."""

from collections.abc import Mapping

import numpy as np
from safetensors.numpy import save

from ..runtime.graph import GRAPHS
from ..runtime.probes import Probe
from .inputs import Arrays, InputMaker
from .parity import ParityRow, Runner, compare

_SIZES = {
    "content": (2, 2_401), "content_low": (2, 2_401), "pitch": (2, 4_801),
    "acoustic": (2, 23), "acoustic_n": (1, 11), "vocoder": (2, 23),
}  # fmt: skip
"""Batch and length of the probes: together some 300 kB."""
_SEED = 3


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
    """The file that `runtime.probes.read_probes` reads."""
    tensors = {}
    for number, probe in enumerate(probes):
        for side, arrays in (("in", probe.inputs), ("out", probe.outputs)):
            tensors |= {f"{number}.{probe.graph}.{side}.{name}": np.ascontiguousarray(a) for name, a in arrays.items()}
    return save(tensors)


def check_probes(probes: list[Probe], runners: Mapping[str, Runner]) -> list[ParityRow]:
    """Each probe through its graph, against what is stored."""
    return [compare(probe.graph, runners[probe.graph](probe.inputs), probe.outputs, *probe.size) for probe in probes]
