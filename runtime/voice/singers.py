"""Selection of singer, blend and key."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..audio.pitch import PitchStatistics
from ..errors import OptionError, abridged, finite
from .bundle import Bundle


@dataclass(frozen=True)
class Singer:
    """A singer of the bundle: median and range (5th to 95th percentile) of F0 in Hz (None: unknown),
    licence, credit.
    """

    name: str
    f0_median_hz: float | None
    f0_range_hz: tuple[float, float] | None
    licence: str
    credit: str


KEY_RANGE = (-36.0, 36.0)
"""Semitones; three octaves either way."""
AUTO_KEY, OCTAVE_KEY = "auto", "octave"
FOUND_KEYS = {AUTO_KEY: 1, OCTAVE_KEY: 12}
"""Names of keys that are found from the song; each key is a multiple of so many semitones."""


@dataclass(frozen=True, eq=False)
class SingerMix:
    """A singer or a blend: weights by name (sum 1), embedding (D,), F0 statistics in Hz (None: not known)."""

    weights: Mapping[str, float]
    embedding: NDArray[np.float32]
    f0_median_hz: float | None
    f0_range_hz: tuple[float, float] | None

    @property
    def label(self) -> str:
        """For file names: "alto", "alto0.7+bass0.3"."""
        if len(self.weights) == 1:
            return next(iter(self.weights))
        return "+".join(f"{name}{weight:.3g}" for name, weight in self.weights.items())


def singers_of(bundle: Bundle) -> dict[str, Singer]:
    """The bundle's singers by name, in the order of its embedding table."""
    entries = sorted(bundle.manifest.singers.items(), key=lambda item: item[1].index)
    return {name: Singer(name, e.f0_median_hz, e.f0_range_hz, e.licence, e.credit) for name, e in entries}


def voice_of(bundle: Bundle, singer: str | Mapping[str, float] | None) -> SingerMix:
    """The singer or blend for `singer`: a name, weights by name, or None for the bundle's first.

    A blend is the mean of embeddings and of log-F0 statistics, weighted by shares of the weights' sum. Raises
    `OptionError`.
    """
    known = singers_of(bundle)
    if singer is None:
        singer = next(iter(known))
    weights = _weights({singer: 1.0} if isinstance(singer, str) else singer, list(known))
    entries = bundle.manifest.singers
    rows = np.stack([bundle.embeddings[entries[name].index] for name in weights]).astype(np.float64)
    share = np.array(list(weights.values()))

    def blend_hz(values: list[float | None]) -> float | None:
        known_hz = [value for value in values if value is not None]
        return float(np.exp(share @ np.log(known_hz))) if len(known_hz) == len(values) else None

    ranges = [entries[name].f0_range_hz or (None, None) for name in weights]
    low, high = (blend_hz([span[end] for span in ranges]) for end in (0, 1))
    median = blend_hz([entries[name].f0_median_hz for name in weights])
    span = None if low is None or high is None else (low, high)
    return SingerMix(weights, (share @ rows).astype(np.float32), median, span)


def _weights(asked: Mapping[str, float], known: list[str]) -> dict[str, float]:
    if not isinstance(asked, Mapping) or not asked:
        raise OptionError(f"singer must be a name or a mapping of names to weights, got {abridged(asked)}")
    weights = {}
    for name, weight in asked.items():
        if name not in known:
            raise OptionError(f"no singer {abridged(name)} in this voice; it has {', '.join(known)}")
        weights[name] = finite(weight)
        if not weights[name] >= 0.0:
            raise OptionError(
                f"the weight of singer {name!r} is {abridged(weight)}; it must be a finite number from 0 up"
            )
    largest = max(weights.values())
    if largest == 0.0:
        raise OptionError(f"the weights of {', '.join(asked)} add up to 0; one must be above 0")
    # Divided by the largest first, because the sum of large weights may be infinite.
    total = sum(weight / largest for weight in weights.values())
    shares = {name: weight / largest / total for name, weight in weights.items()}
    return {name: share for name, share in shares.items() if share > 0.0}


def check_key(key: float | str, voice: SingerMix) -> float | None:
    """`key` in semitones, or None for one of `FOUND_KEYS`. Raises `OptionError`."""
    if isinstance(key, str) and key in FOUND_KEYS:
        if voice.f0_median_hz is None:
            raise OptionError(
                f"key is {key!r}, and the pitch that {voice.label} sings at is not known: the voice was imported "
                "without it\nhint: give the key in semitones, or set it: comosvc-export set VOICE --f0-median NAME=HZ"
            )
        return None
    return check_semitones(key, f", or {' or '.join(map(repr, FOUND_KEYS))}")


def check_semitones(key: float | str, otherwise: str = "") -> float:
    """`key` as a float within `KEY_RANGE`; `otherwise` names other choices in the error. Raises `OptionError`."""
    low, high = KEY_RANGE
    number = finite(key)
    if not low <= number <= high:
        raise OptionError(f"key is {abridged(key)}; it must be {low:g} to {high:g} semitones{otherwise}")
    return number


def auto_key(song: PitchStatistics, f0_median_hz: float, step: int = 1) -> float:
    """Semitones that take the song's median F0 to the voice's, a multiple of `step`; 0 for a song without pitch.

    The nearest semitone (1) keeps the song inside the voice's range; the nearest octave (12) in tune with a backing
    track.
    """
    if not song.voiced_frames:
        return 0.0
    semitones = round(12.0 * math.log2(f0_median_hz / song.percentile_hz(0.5)))
    return float(np.clip(step * round(semitones / step), *KEY_RANGE))
