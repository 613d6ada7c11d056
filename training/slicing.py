"""Cutting recordings at their silences."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ..runtime.loudness import voice_band

SILENCE = 1e-4
"""Highest peak, in the voice's band, of a file that counts as silent."""
_HUM_SHARE = 0.25
"""Below this share of power in the voice's band, only that power of a frame counts; the rest is offset, rumble or
hum."""


@dataclass(frozen=True, kw_only=True)
class SlicingConfig:
    """How files are cut."""

    min_seconds: float = 0.5
    """Shorter pieces are dropped. The authors take 0.3."""
    max_seconds: float = 15.0
    """Longer phrases are divided."""
    silence_db: float = 40.0
    """Frames this far below a file's loudest frame are silence."""
    rest_seconds: float = 1.0
    """Rests shorter than this stay inside a piece."""


def slice_at_silences(signal: NDArray[np.float32], rate: int, config: SlicingConfig) -> Iterator[tuple[int, int]]:
    """First and last (exclusive) sample of each piece of `signal` (L,); none where it is silent throughout.

    An offset, rumble and mains hum are silence. Pieces are joined up to the longest allowed, so that phrases keep their
    short rests.
    """
    if np.abs(voice_band(signal, rate)).max(initial=0.0) < SILENCE:
        return
    longest = config.max_seconds * rate
    joined: list[list[int]] = []
    for start, stop in _sounding(signal, rate, config.silence_db):
        fits = joined and stop - joined[-1][0] <= longest and start - joined[-1][1] < config.rest_seconds * rate
        if fits:
            joined[-1][1] = stop
        else:
            joined.append([start, stop])
    for start, stop in joined:
        n = max(1, round((stop - start) / longest))
        yield from pairwise(np.linspace(start, stop, n + 1).astype(int).tolist())


def _sounding(signal: NDArray[np.float32], rate: int, silence_db: float) -> list[list[int]]:
    """Stretches within `silence_db` of the loudest frame; frames of 100 ms, every 25 ms. As `librosa.effects.split`."""
    width, hop = rate // 10, rate // 40
    centres = np.arange(len(signal) // hop + 1) * hop
    first, last = (np.clip(centres + shift, 0, len(signal)) for shift in (-(width // 2), width - width // 2))

    def power_of(audio: NDArray[np.float32]) -> NDArray[np.float64]:
        energy = np.concatenate(([0.0], np.cumsum(np.square(audio, dtype=np.float64))))
        return (energy[last] - energy[first]) / width

    whole, voice = power_of(signal), power_of(voice_band(signal, rate))
    power = np.where(voice < _HUM_SHARE * whole, voice, whole)
    sounds = power > power.max() * 10.0 ** (-silence_db / 10.0)
    edges = np.flatnonzero(np.diff(np.concatenate(([False], sounds, [False]))))
    return np.minimum(edges.reshape(-1, 2) * hop, len(signal)).tolist()
