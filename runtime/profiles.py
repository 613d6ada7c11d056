"""Which shapes an engine is built for and run at, from the graph contracts and the voice's own rates and contexts.

Engines want the smallest, the usual and the largest size of each free dimension before they are built; what they are
called with later is padded to a few buckets between, for each new shape costs a set-up and a captured graph.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .errors import OptionError
from .framing import ceil_div
from .graph import GRAPHS
from .manifest import GraphEntry, Manifest
from .pitch import PITCH_HOP_LENGTH
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
class Range:
    """Of a free dimension, or of a graph's length: least, usual, most."""

    least: int
    usual: int
    most: int


@dataclass(frozen=True)
class Grid:
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


def grid_of(manifest: Manifest, graph: str) -> Grid:
    """The grid of a graph of this voice."""
    spec = manifest.audio
    per_frame = spec.hop_length * spec.content_sample_rate / (spec.sample_rate * spec.content_hop_length)
    context = getattr(manifest.context, graph.removesuffix("_n"))
    frames = context.past + context.future
    if graph == "pitch":
        least = (1 + context.future) * PITCH_HOP_LENGTH
        return Grid(graph, True, PITCH_HOP_LENGTH, 0.0, frames, False, least)
    if graph.startswith("content"):
        hop = spec.content_hop_length
        if manifest.front_end.content_window_s:
            return Grid(graph, True, hop, 0.0, 0, True, _MIN_WHOLE_SAMPLES)
        overhang = ceil_div(round(context.window_ms * spec.content_sample_rate), 1000 * hop)
        return Grid(graph, True, hop, 0.0, frames + 2 * overhang, False, (1 + context.future) * hop)
    if graph.startswith("acoustic"):
        frames *= max([1, *map(int, manifest.model.schedules)])  # the last step's context is that of all before it
    return Grid(graph, False, spec.hop_length, per_frame, frames, False)


def length_of(manifest: Manifest, graph: str, use: str) -> Range:
    """Frames of a graph's calls in this use, its context included."""
    grid, spec, wanted = grid_of(manifest, graph), manifest.audio, USES[use]
    rate = spec.content_sample_rate if grid.takes_audio else spec.sample_rate
    usual, longest = (grid.context + round(seconds * rate / grid.hop) for seconds in (wanted.usual_s, wanted.longest_s))
    if grid.sees_all and use != "stream":  # whole windows, and the hop that the last may be rounded up by
        usual = longest = 1 + round(manifest.front_end.content_window_s * rate / grid.hop)
    least = ceil_div(grid.least_samples, grid.hop) if grid.takes_audio else 1
    # A bucket may not reach beyond what the engine was built for.
    return Range(least, max(least, usual), max(least, bucket(longest)))


def profile(manifest: Manifest, graph: str, use: str) -> dict[str, Range]:
    """Range of each free letter of a graph."""
    grid, length = grid_of(manifest, graph), length_of(manifest, graph, use)
    lengths = length.least, length.usual, length.most
    least, usual, most = (grid.sizes(b, n) for b, n in zip(USES[use].batch, lengths, strict=True))
    letters = {letter for tensor in GRAPHS[graph].inputs for letter in tensor.dims}
    least |= {"S": 1, "N": grid.least_samples}  # a call reads no more content than its frames point to
    return {letter: Range(least[letter], usual[letter], most[letter]) for letter in usual if letter in letters}


def input_shapes(entry: GraphEntry, ranges: Mapping[str, Range]) -> dict[str, tuple[Shape, Shape, Shape]]:
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
