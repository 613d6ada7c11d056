"""Shapes that graphs are built for and run at, and checks of their outputs against the contracts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..audio.frames import ceil_div
from ..audio.pitch import PITCH_HOP_LENGTH
from ..errors import BundleError, OptionError
from ..voice.graphs import GRAPHS
from ..voice.manifest import GraphEntry, Manifest
from .request import PIECE_S

Shape = tuple[int, ...]
_MIN_WHOLE_SAMPLES = 400
"""Fewest that a whole window of content has (`content_track`)."""
_SPARE_ROWS = 2
"""Content frames that mel frames touch at most beyond their own length: a part of one at either end."""


@dataclass(frozen=True)
class Use:
    """What an engine is called for. `batch`: least, usual, most clips. Seconds: of new audio in a call, no context."""

    batch: tuple[int, int, int]
    usual_s: float
    longest_s: float


USES = {
    "stream": Use(batch=(1, 1, 1), usual_s=0.1, longest_s=1.0),
    "clip": Use(batch=(1, 1, 1), usual_s=PIECE_S, longest_s=PIECE_S),
    "batch": Use(batch=(1, 8, 32), usual_s=PIECE_S, longest_s=PIECE_S),
}
"""In the order in which they are tried: the first that holds a call's shape runs it."""

NO_CLIPS = ("stream",)
"""Uses whose engines are too short for a clip. Those of any other hold every call: a batch's clips may go in turns."""


@dataclass(frozen=True)
class LengthRange:
    """Of a free dimension, or of a graph's length: least, usual, most."""

    least: int
    usual: int
    most: int


@dataclass(frozen=True)
class LengthGrid:
    """How the free dimensions of one graph follow from its length, counted in the graph's own frames.

    `hop`: samples in a frame. `sees_all`: every output depends on all of the input, so nothing may be appended.
    """

    graph: str
    takes_audio: bool
    hop: int
    content_per_frame: float
    context: int
    sees_all: bool
    least_samples: int = 1

    def sizes(self, batch: int, frames: int) -> dict[str, int]:
        """Every free letter at `frames` frames; of content as many rows as they can touch."""
        if self.takes_audio:
            return {"B": batch, "N": max(frames * self.hop, self.least_samples)}
        rows = int(-(-frames * self.content_per_frame // 1)) + _SPARE_ROWS
        return {"B": batch, "T": frames, "L": frames * self.hop, "S": rows}

    def frames_for(self, shapes: Mapping[str, Shape]) -> int:
        """The fewest frames whose sizes hold inputs of these shapes."""
        if self.takes_audio:
            return ceil_div(shapes["audio"][1], self.hop)
        frames = shapes["f0_hz" if "f0_hz" in shapes else "mel"][1]
        while "content" in shapes and self.sizes(1, frames)["S"] < shapes["content"][1]:
            frames += 1
        return frames


def grid_of(manifest: Manifest, graph: str) -> LengthGrid:
    """The grid of a graph of this voice."""
    spec = manifest.audio
    if graph == "pitch" or graph.startswith("content"):
        hop = PITCH_HOP_LENGTH if graph == "pitch" else spec.content_hop_length
        if graph != "pitch" and manifest.front_end.content_window_s:
            return LengthGrid(graph, True, hop, 0.0, 0, True, _MIN_WHOLE_SAMPLES)
        context = manifest.context_of(graph)
        return LengthGrid(graph, True, hop, 0.0, context.past + context.future, False, (1 + context.future) * hop)
    steps = max([1, *map(int, manifest.model.schedules)]) if graph.startswith("acoustic") else 1
    context = manifest.context_of(graph, steps)  # the last step's context is that of all before it
    per_frame = spec.hop_length * spec.content_sample_rate / (spec.sample_rate * spec.content_hop_length)
    return LengthGrid(graph, False, spec.hop_length, per_frame, context.past + context.future, False)


def length_of(manifest: Manifest, graph: str, use: str) -> LengthRange:
    """Frames of a graph's calls in this use, its context included."""
    grid, spec, wanted = grid_of(manifest, graph), manifest.audio, USES[use]
    rate = spec.content_sample_rate if grid.takes_audio else spec.sample_rate
    usual, longest = (grid.context + round(seconds * rate / grid.hop) for seconds in (wanted.usual_s, wanted.longest_s))
    if grid.sees_all and use != "stream":  # whole windows, and the hop that the last may be rounded up by
        usual = longest = 1 + round(manifest.front_end.content_window_s * rate / grid.hop)
    least = ceil_div(grid.least_samples, grid.hop) if grid.takes_audio else 1
    # A bucket may not exceed the engine's longest length.
    return LengthRange(least, max(least, usual), max(least, bucket(longest)))


def profile(manifest: Manifest, graph: str, use: str) -> dict[str, LengthRange]:
    """LengthRange of each free letter of a graph."""
    grid, length = grid_of(manifest, graph), length_of(manifest, graph, use)
    lengths = length.least, length.usual, length.most
    least, usual, most = (grid.sizes(b, n) for b, n in zip(USES[use].batch, lengths, strict=True))
    letters = {letter for tensor in GRAPHS[graph].inputs for letter in tensor.dims}
    least |= {"S": 1, "N": grid.least_samples}  # a call reads no more content than its frames point to
    return {letter: LengthRange(least[letter], usual[letter], most[letter]) for letter in usual if letter in letters}


def input_shapes(entry: GraphEntry, ranges: Mapping[str, LengthRange]) -> dict[str, tuple[Shape, Shape, Shape]]:
    """Least, usual and most of every input that is no scalar, by name."""

    def shape(dims: Sequence[int | str], which: str) -> Shape:
        return tuple(getattr(ranges[dim], which) if isinstance(dim, str) else dim for dim in dims)

    return {
        name: (shape(dims, "least"), shape(dims, "usual"), shape(dims, "most"))
        for name, _, dims in entry.inputs
        if dims
    }


def bucket(frames: int) -> int:
    """The length that one of `frames` is padded to: at most an eighth is added, and there are eight to an octave."""
    step = 1 << max(0, frames.bit_length() - 4)
    return ceil_div(frames, step) * step


def parse_uses(words: Sequence[str]) -> tuple[str, ...]:
    """Those uses, in the order of `USES`. Raises `OptionError`."""
    if unknown := [word for word in words if word not in USES]:
        raise OptionError(f"unknown profile {unknown[0]!r}; known: {', '.join(USES)}")
    return tuple(use for use in USES if use in words)


_BROKEN = "hint: the bundle is broken; comosvc-export verify gives details"


def check_outputs(grid: LengthGrid, entry: GraphEntry, inputs: Mapping[str, Shape], outputs: Sequence[NDArray]) -> None:
    """Raise `BundleError` unless `outputs`, in the order of `entry`, have the element types and shapes that follow
    from inputs of these shapes.
    """
    lengths = _lengths(grid, inputs)
    letters = {tensor.name: tensor.dims for tensor in GRAPHS[grid.graph].outputs}
    for (name, dtype, dims), output in zip(entry.outputs, outputs, strict=True):
        sizes = [
            range(d, d + 1) if isinstance(d, int) else lengths[x] for d, x in zip(dims, letters[name], strict=True)
        ]
        what = f"the {grid.graph} graph gave {name}"
        fits = output.ndim == len(sizes) and all(n in size for n, size in zip(output.shape, sizes, strict=True))
        if output.dtype != dtype or not fits:
            asked = ", ".join(f"{tensor} {shape}" for tensor, shape in inputs.items())
            wanted = ", ".join(f"{s.start}" if len(s) == 1 else f"{s.start} to {s.stop - 1}" for s in sizes)
            raise BundleError(
                f"{what} {output.dtype} {output.shape} for {asked}; it must be {dtype} ({wanted})\n{_BROKEN}"
            )


def check_finite(graph: str, outputs: Sequence[NDArray]) -> None:
    """Raise `BundleError` for numbers that are NaN or infinite; `outputs` are in the order of the contract."""
    for index, output in enumerate(outputs):
        if bad := output.size - np.count_nonzero(np.isfinite(output)):
            what = f"the {graph} graph gave {GRAPHS[graph].outputs[index].name}"
            raise BundleError(f"{what} with {bad} of {output.size} numbers that are NaN or infinite\n{_BROKEN}")


def _lengths(grid: LengthGrid, inputs: Mapping[str, Shape]) -> dict[str, range]:
    """Sizes allowed for each free dimension of the outputs.

    Encoders give a row for each whole hop. An encoder that takes all of its input at once may leave out the first or
    the last row, as networks without padding do.
    """
    given = {"B": max(shape[0] for shape in inputs.values() if shape)}
    for tensor in GRAPHS[grid.graph].inputs:
        given |= dict(zip(tensor.dims, inputs.get(tensor.name, ()), strict=False))
    if grid.takes_audio:
        rows = max(1, given["N"] // grid.hop)
        spread = range(max(1, rows - 2), rows + 2) if grid.sees_all else range(rows, rows + 1)
        return {"B": range(given["B"], given["B"] + 1), "S": spread, "P": spread}
    given["L"] = given["T"] * grid.hop
    return {letter: range(size, size + 1) for letter, size in given.items()}
