"""The parallel test set without a corpus folder: the ground truth that benchmarks compare a conversion with."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .config import CorpusConfig
from .performance import Performance
from .plan import demo_singers, held_out_songs, noise_seed, perform_plan
from .render import render
from .singer import Singer, held_out_singers


@dataclass(frozen=True)
class ParallelSong:
    """One performance sung by several singers, sample by sample in step."""

    song: str
    performance: Performance
    audio: dict[str, NDArray[np.float32]]
    """Singer's name to (L,) at 24 kHz; L is the same for all."""
    sources: tuple[str, ...]
    """Held-out singers."""
    targets: tuple[str, ...]
    """Demo voices."""


def render_parallel(performance: Performance, singers: tuple[Singer, ...], seed: int = 0) -> dict[str, NDArray]:
    """`performance` by each of `singers`: name to audio (L,) float32 at 24 kHz. Noise differs between singers."""
    return {singer.name: render(performance, singer, seed + index) for index, singer in enumerate(singers)}


def held_out_set(config: CorpusConfig | None = None) -> Iterator[ParallelSong]:
    """The held-out songs by all held-out singers and demo voices, equal to the clips of a corpus of this configuration.

    Up to the 16-bit rounding of the corpus files.
    """
    config = config or CorpusConfig()
    sources = held_out_singers(config.seed, config.held_out_singers)
    targets = demo_singers(config)
    for song in held_out_songs(config):
        performance = perform_plan(config, song)
        audio = {
            singer.name: render(performance, singer, noise_seed(config, f"{singer.name}-{song.id}"))
            for singer in (*sources, *targets)
        }
        yield ParallelSong(song.id, performance, audio, tuple(s.name for s in sources), tuple(s.name for s in targets))
