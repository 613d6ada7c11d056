"""What each graph of a bundle takes and gives, as data.

Tracing, the parity check, the manifest and the runtime's own check all read this table. Everything that crosses a graph
boundary is channel-last.

Letters: B batch, S content frames, T mel frames, P pitch frames, L samples at the model's rate, N samples at 16 kHz,
M mel bins, C content channels, D singer embedding size, H source channels.
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class TensorSpec:
    """A named tensor: its element type and the letters of its dimensions (none: a scalar)."""

    name: str
    dtype: str
    dims: tuple[str, ...]


@dataclass(frozen=True)
class GraphSpec:
    """A graph's contract. `inputs` and `outputs` are in the order of the ONNX file."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


CONTENT = GraphSpec(
    name="content",
    inputs=(TensorSpec("audio", "float32", ("B", "N")),),
    outputs=(TensorSpec("content", "float32", ("B", "S", "C")),),
)

CONTENT_LOW = replace(CONTENT, name="content_low")  # the same with a shorter look-ahead, for live use

PITCH = GraphSpec(
    name="pitch",
    inputs=(TensorSpec("audio", "float32", ("B", "N")),),
    outputs=(TensorSpec("f0_hz", "float32", ("B", "P")), TensorSpec("confidence", "float32", ("B", "P"))),
)

_CONDITION = (
    TensorSpec("content", "float32", ("B", "S", "C")),
    TensorSpec("content_index", "int32", ("B", "T")),
    TensorSpec("f0_hz", "float32", ("B", "T")),
    TensorSpec("loudness", "float32", ("B", "T")),
    TensorSpec("singer", "float32", ("B", "D")),
)
_MEL = TensorSpec("mel", "float32", ("B", "T", "M"))

ACOUSTIC = GraphSpec(
    name="acoustic",  # the one-step student: condition + noise -> mel
    inputs=(*_CONDITION, TensorSpec("noise", "float32", ("B", "T", "M"))),
    outputs=(_MEL,),
)

ACOUSTIC_N = GraphSpec(
    name="acoustic_n",  # one of several steps; step_index points into a table of sigmas baked into the graph
    inputs=(*_CONDITION, _MEL, TensorSpec("noise", "float32", ("B", "T", "M")), TensorSpec("step_index", "int32", ())),
    outputs=(TensorSpec("mel_out", "float32", ("B", "T", "M")),),
)

VOCODER = GraphSpec(
    name="vocoder",
    inputs=(
        _MEL,
        TensorSpec("f0_hz", "float32", ("B", "T")),
        TensorSpec("source", "float32", ("B", "L", "H")),
        TensorSpec("noise", "float32", ("B", "L")),
    ),
    outputs=(TensorSpec("audio", "float32", ("B", "L")),),
)

GRAPHS = {graph.name: graph for graph in (CONTENT, CONTENT_LOW, PITCH, ACOUSTIC, ACOUSTIC_N, VOCODER)}
OPTIONAL_INPUTS = {"vocoder": ("f0_hz", "source", "noise")}
"""By graph: inputs of its contract that a design may leave out."""
