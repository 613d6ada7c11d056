"""F0 by WORLD's DIO or Harvest, for voices whose model was trained on it. Needs pyworld (extra f0).

DIO and Harvest depend on all of their input: they subtract its mean and correct F0 along it. So a clip is analysed in
windows of 20 s that overlap by 2 s, anchored to absolute time. A clip of up to 20 s is one window, as in CoMoSVC's own
conversion. Live conversions cannot wait that long, and use the pitch graph.
"""

import importlib
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import install
from .frames import ArrivedClip, Track, Windows
from .spec import AudioSpec, F0Name

_RANGE_HZ = (50.0, 1100.0)
_UNVOICED_HZ = 1e-3
"""F0 values of WORLD below this are unvoiced, as in the authors' code."""
_WINDOW_S, _OVERLAP_S = 20.0, 2.0

Contour = Callable[[NDArray[np.float32], AudioSpec], NDArray[np.float64]]
"""(audio (L,) at the spec's rate, spec) -> F0 in Hz (P,) from the first sample on, a value every hop, 0 = unvoiced."""


def dio(audio: NDArray[np.float32], spec: AudioSpec) -> NDArray[np.float64]:
    """DIO refined by StoneMask (Morise et al. 2009), as CoMoSVC takes it: 50 to 1100 Hz, to a tenth of a hertz."""
    world, signal = _world(), audio.astype(np.float64)
    f0_hz, times = world.dio(signal, spec.sample_rate, *_RANGE_HZ, frame_period=1e3 / spec.frame_rate_hz)
    return np.round(world.stonemask(signal, f0_hz, times, spec.sample_rate), 1)


def harvest(audio: NDArray[np.float32], spec: AudioSpec) -> NDArray[np.float64]:
    """Harvest (Morise 2017) over the same range: fewer octave errors than DIO, ten times slower."""
    signal = audio.astype(np.float64)
    return _world().harvest(signal, spec.sample_rate, *_RANGE_HZ, frame_period=1e3 / spec.frame_rate_hz)[0]


CONTOURS: dict[F0Name, Contour] = {"dio": dio, "harvest": harvest}


def squeezed(f0_hz: NDArray[np.float64], n_frames: int) -> NDArray[np.float32]:
    """F0 (P,) brought to `n_frames` by linear interpolation over its whole length, unvoiced where either neighbour is.

    WORLD gives a frame more than the mel has, and the authors squeeze them together. Source: their resize_f0.
    """
    known = np.where(f0_hz < _UNVOICED_HZ, np.nan, f0_hz)
    places = np.arange(n_frames) * len(f0_hz) / n_frames
    return np.nan_to_num(np.interp(places, np.arange(len(f0_hz)), known)).astype(np.float32)


def has_world() -> bool:
    """True if pyworld can be imported."""
    try:
        _world()
    except ImportError:
        return False
    return True


def f0_warnings(trained: F0Name, *, live: bool) -> list[str]:
    """A warning where a conversion takes F0 from the pitch graph and the model was trained on another extractor's."""
    if trained not in CONTOURS or (not live and has_world()):
        return []
    why = "which needs more of the song than a live conversion has" if live else f"which is missing: {install('f0')}"
    return [f"the voice was trained on F0 from {trained}, {why}; swift-f0 is used, a few cents off in the median"]


def _world() -> Any:
    return importlib.import_module("pyworld")


class _Clip(ArrivedClip, Protocol):
    def is_silent(self, first: int, last: int) -> bool: ...


class WorldF0:
    """F0 (T,) of one clip at mel frames by `contour`, window after window; 0 where unvoiced or silent."""

    def __init__(self, contour: Contour, spec: AudioSpec) -> None:
        self._contour, self._spec = contour, spec
        self._windows = Windows(_WINDOW_S, _OVERLAP_S, spec)
        self.f0_hz = Track()

    @property
    def first_sample(self) -> int:
        """First sample, at the model's rate, of the next window."""
        return self._spec.samples(self._windows.start)

    def advance(self, clip: _Clip, at_model_rate: Track) -> None:
        """Analyse all complete windows."""
        while clip.goal is None or self.f0_hz.end < clip.goal:
            first_sample, window = self.first_sample, self._windows.next(clip)
            if window is None:
                return
            found = np.zeros(window.used_end - window.start, np.float32)
            if not clip.is_silent(self.f0_hz.end, window.used_end):
                last_sample = at_model_rate.end if window.is_last else self._spec.samples(window.end)
                audio = at_model_rate.read_padded(first_sample, last_sample)
                if len(audio):
                    f0_hz = squeezed(self._contour(audio, self._spec), window.end - window.start)[: len(found)]
                    found[: len(f0_hz)] = f0_hz
            self.f0_hz.append(found[self.f0_hz.end - window.start :])


def make_world_f0(trained: F0Name, spec: AudioSpec) -> WorldF0 | None:
    """The F0 track for a model `trained` on F0 of WORLD; None for other models and without pyworld."""
    return WorldF0(CONTOURS[trained], spec) if trained in CONTOURS and has_world() else None
