"""Compares ONNX Runtime with torch, for each graph and end to end, and makes the probes of a bundle."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save
from torch import nn

from ...runtime.audio.spec import AudioSpec
from ...runtime.providers.self_test import Probe
from ...runtime.providers.sessions import CPU, new_session, onnx_runtime, session_options
from ...runtime.voice.graphs import GRAPHS, GraphSpec
from ..errors import ParityError
from .inputs import Arrays, InputMaker, clipped_content_index
from .trace import spec_of

Runner = Callable[[Arrays], Arrays]
"""Runs a graph: arrays by input name -> arrays by output name."""


@dataclass(frozen=True)
class Tolerance:
    relative: float
    """Largest ||onnx - torch|| / ||torch||."""
    reason: str


_FLOAT32 = "the same float32 arithmetic in another order: 5e-7 was seen, 1e-5 is a hundred rounding errors in a row"
TOLERANCES = {
    "content": Tolerance(1e-5, _FLOAT32),
    "content_low": Tolerance(1e-5, _FLOAT32),
    "pitch": Tolerance(1e-5, "not traced: its stored outputs are ONNX Runtime's own, on the machine that exported it"),
    "acoustic": Tolerance(1e-5, _FLOAT32),
    "acoustic_n": Tolerance(1e-5, _FLOAT32),
    "vocoder": Tolerance(1e-5, _FLOAT32),
    "end_to_end": Tolerance(1e-4, "the errors of three graphs in a row, each one's passed on by the next"),
}

BATCHES = (1, 3)
LENGTHS = {  # the shortest allowed, two odd ones, a long one; 16 kHz samples for what takes audio, else mel frames
    "content": (160, 1_777, 16_001, 64_000),
    "content_low": (160, 1_777, 16_001, 64_000),
    "acoustic": (1, 7, 129, 750),
    "acoustic_n": (1, 7, 129, 750),
    "vocoder": (1, 7, 129, 750),
    "end_to_end": (4, 57, 375),
}
CHAIN = ("content", "acoustic", "acoustic_n", "vocoder")


@dataclass(frozen=True)
class ParityRow:
    """One comparison. `length` is in 16 kHz samples for graphs that take audio, else in mel frames."""

    graph: str
    provider: str
    precision: str
    batch: int
    length: int
    relative: float
    max_abs: float
    tolerance: float

    def as_dict(self) -> dict[str, str | int | float]:
        return asdict(self)

    @property
    def ok(self) -> bool:
        return self.relative <= self.tolerance  # False for NaN


def relative_error(measured: NDArray, reference: NDArray) -> float:
    """||a - b|| / ||b||, in float64; where b is all zero, ||a||."""
    a, b = measured.astype(np.float64), reference.astype(np.float64)
    return float(np.linalg.norm(a - b) / (np.linalg.norm(b) or 1.0))


def torch_runner(spec: GraphSpec, module: nn.Module) -> Runner:
    """`module.forward` takes the graph's inputs by name; those that it does without are left out."""
    taken = [tensor.name for tensor in spec_of(spec, module).inputs]

    @torch.inference_mode()
    def run(inputs: Arrays) -> Arrays:
        result = module(**{name: torch.from_numpy(np.array(inputs[name])) for name in taken})
        outputs = result if isinstance(result, tuple) else (result,)
        return {tensor.name: output.numpy() for tensor, output in zip(spec.outputs, outputs, strict=True)}

    module.eval()
    return run


def onnx_runner(graph: bytes) -> Runner:
    """The graph in ONNX Runtime on the CPU, in float32, on one thread: sums in the same order on every machine.

    Raises ONNX Runtime's own errors; callers name the graph.
    """
    ort = onnx_runtime()
    session = new_session(ort, graph, session_options(ort, 1), [CPU])
    names = [output.name for output in session.get_outputs()]
    taken = [value.name for value in session.get_inputs()]

    def run(inputs: Arrays) -> Arrays:
        values = session.run(names, {name: inputs[name] for name in taken})
        return {name: np.asarray(value) for name, value in zip(names, values, strict=True)}

    return run


def compare(graph: str, measured: Arrays, reference: Arrays, batch: int, length: int) -> ParityRow:
    """The worst output of a graph. Raises `ParityError` for shapes that differ."""
    relative, max_abs = 0.0, 0.0
    for name, wanted in reference.items():
        got = measured[name]
        if got.shape != wanted.shape:
            where = f"{graph} at batch {batch}, length {length}"
            raise ParityError(f"{where}: {name} has shape {got.shape}, torch gives {wanted.shape}")
        relative = max(relative, relative_error(got, wanted)) if np.isfinite(got).all() else float("nan")
        max_abs = max(max_abs, float(np.abs(got - wanted).max()))
    return ParityRow(graph, "cpu", "fp32", batch, length, relative, max_abs, TOLERANCES[graph].relative)


def check_graph(spec: GraphSpec, onnx: Runner, reference: Runner, maker: InputMaker) -> list[ParityRow]:
    """A graph at every length of `LENGTHS` and batch of `BATCHES`."""
    rows = []
    for batch in BATCHES:
        for length in lengths(spec, maker):
            inputs = maker.make(spec, batch, length, seed=1)
            rows.append(compare(spec.name, onnx(inputs), reference(inputs), batch, length))
    return rows


def lengths(spec: GraphSpec, maker: InputMaker) -> list[int]:
    """`LENGTHS` of a graph, none below its shortest input; for the pitch graph, which torch never made, content's."""
    shortest = maker.min_samples if spec.inputs[0].name == "audio" else 1
    return sorted({max(length, shortest) for length in LENGTHS.get(spec.name, LENGTHS["content"])})


def check_end_to_end(onnx: Mapping[str, Runner], reference: Mapping[str, Runner], maker: InputMaker) -> list[ParityRow]:
    """Audio to audio, each chain on its own intermediate results."""
    rows = []
    for batch in BATCHES:
        for length in LENGTHS["end_to_end"]:
            audio, inputs = chain_inputs(maker, batch, length)
            got, wanted = (chain(runners, audio, inputs, maker.audio) for runners in (onnx, reference))
            rows.append(compare("end_to_end", got, wanted, batch, length))
    return rows


def chain_graphs(maker: InputMaker) -> list[str]:
    """`CHAIN` without `acoustic_n` for voices that lack it."""
    return [name for name in CHAIN if name != "acoustic_n" or maker.n_sigmas]


def chain_inputs(maker: InputMaker, batch: int, length: int, seed: int = 2) -> tuple[NDArray, dict[str, Arrays]]:
    """Audio at 16 kHz of `length` mel frames, and the further inputs of each later graph."""
    n_samples = maker.audio.samples(length) * maker.audio.content_sample_rate // maker.audio.sample_rate
    audio = maker.make(GRAPHS["content"], batch, max(n_samples, maker.min_samples), seed=seed)["audio"]
    return audio, {name: maker.make(GRAPHS[name], batch, length, seed=seed) for name in chain_graphs(maker)[1:]}


def chain(runners: Mapping[str, Runner], audio: NDArray, inputs: dict[str, Arrays], spec: AudioSpec) -> Arrays:
    """`audio` (B, L) of the chain: content, one or two acoustic steps, vocoder."""
    state = {"audio": audio}
    for graph in ("content", *inputs):
        state |= chain_step(graph, runners[graph], state, inputs, spec)
    return {"audio": state["audio"]}


def chain_feed(graph: str, state: Arrays, inputs: Mapping[str, Arrays]) -> Arrays:
    """Inputs of a graph of `CHAIN`, from the `state` of those before it and its own of `chain_inputs`."""
    if graph == "content":
        return {"audio": state["audio"]}
    condition = {**inputs["acoustic"], **{name: state[name] for name in ("content", "content_index")}}
    if graph == "acoustic":
        return condition
    if graph == "acoustic_n":
        del condition["noise"]
        return {**inputs["acoustic_n"], **condition, "mel": state["mel"]}
    return {**inputs["vocoder"], "mel": state["mel"], "f0_hz": condition["f0_hz"]}


def chain_step(graph: str, runner: Runner, state: Arrays, inputs: Mapping[str, Arrays], spec: AudioSpec) -> Arrays:
    """The values that a graph of `CHAIN` adds to the `state` of those before it."""
    found = runner(chain_feed(graph, state, inputs))
    if graph == "content":
        batch, length = inputs["acoustic"]["f0_hz"].shape
        index = np.tile(clipped_content_index(length, found["content"].shape[1], spec), (batch, 1))
        return {**found, "content_index": index}
    return {"mel": found["mel_out"]} if graph == "acoustic_n" else found


def require(rows: list[ParityRow]) -> None:
    """`ParityError` with every row that misses its tolerance."""
    misses = [row for row in rows if not row.ok]
    if misses:
        lines = [
            f"{row.graph} at batch {row.batch}, length {row.length}: relative error {row.relative:.2e}, "
            f"at most {row.tolerance:.0e} allowed (largest difference {row.max_abs:.2e})"
            for row in misses
        ]
        raise ParityError("ONNX Runtime and torch disagree\n" + "\n".join(lines))


def summary(rows: list[ParityRow]) -> list[tuple[str, str, str, str, str]]:
    """Of each graph: name, number of comparisons, worst relative error, what is allowed, largest difference."""
    by_graph: dict[str, list[ParityRow]] = {}
    for row in rows:
        by_graph.setdefault(row.graph, []).append(row)
    return [
        (
            graph,
            str(len(found)),
            f"{max(row.relative for row in found):.1e}",
            f"{found[0].tolerance:.0e}",
            f"{max(row.max_abs for row in found):.1e}",
        )
        for graph, found in by_graph.items()
    ]


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
