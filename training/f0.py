"""F0 of recordings, by the extractor that a recipe names. All answer alike: Hz at mel frames, 0 where unvoiced."""

from collections.abc import Callable
from functools import cache, partial
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from ..runtime.audio import resample
from ..runtime.extras import install
from ..runtime.pitch import PITCH_SAMPLE_RATE, Session, f0_at_frames, track_pitch
from ..runtime.providers.onnx import open_session
from ..runtime.second_opinion import second_opinion
from ..runtime.spec import AudioSpec, F0Name, FrontEnd
from ..runtime.world_f0 import CONTOURS, squeezed
from .errors import ConfigError

F0Extractor = Callable[[NDArray[np.float32], AudioSpec, FrontEnd], NDArray[np.float32]]
"""(audio (L,) at the spec's rate, spec, front end) -> F0 in Hz (T,), T = spec.frames(L), 0 where unvoiced.

What a model is told of unvoiced frames is `runtime.pitch.told_f0`.
"""


def swift_f0(audio: NDArray[np.float32], spec: AudioSpec, front_end: FrontEnd) -> NDArray[np.float32]:
    """The shipped pitch graph (swift-f0), taken at the front end's instants."""
    at_16k = resample(audio, spec.sample_rate, PITCH_SAMPLE_RATE)
    f0_hz, confidence, _ = second_opinion(at_16k, *track_pitch(pitch_session(), at_16k))
    return f0_at_frames(f0_hz, confidence, spec.frames(len(audio)), spec, instant=front_end.instant)


def _world_f0(name: F0Name, audio: NDArray[np.float32], spec: AudioSpec, front_end: FrontEnd) -> NDArray[np.float32]:
    """WORLD's DIO or Harvest. Frames begin at the clip's start, whatever `front_end` says."""
    try:
        return squeezed(CONTOURS[name](audio, spec), spec.frames(len(audio)))
    except ImportError as error:
        raise ConfigError(f"the F0 extractors dio and harvest need pyworld ({error})\nhint: {install('f0')}") from error


EXTRACTORS: dict[F0Name, F0Extractor] = {"swift-f0": swift_f0, **{name: partial(_world_f0, name) for name in CONTOURS}}
"""By name; those of WORLD raise `ConfigError` where its package is not installed."""


@cache
def pitch_session() -> Session:
    """One session a process: the shipped pitch graph on one thread."""
    model = resources.files("comosvc.runtime").joinpath("data/pitch.onnx").read_bytes()
    return open_session(model, "the pitch graph", threads=1)
