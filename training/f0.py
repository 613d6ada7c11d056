"""F0 of recordings, by the extractor that a recipe names. All answer alike: Hz at mel frames, 0 where unvoiced."""

from collections.abc import Callable
from functools import cache
from importlib import import_module, resources
from typing import Any, Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ..runtime.audio import resample
from ..runtime.extras import install
from ..runtime.pitch import PITCH_SAMPLE_RATE, f0_at_frames, track_pitch
from ..runtime.second_opinion import second_opinion
from ..runtime.spec import AudioSpec, FrontEnd
from .errors import ConfigError

F0Name = Literal["swift-f0", "dio", "harvest"]
F0Extractor = Callable[[NDArray[np.float32], AudioSpec, FrontEnd], NDArray[np.float32]]
"""(audio (L,) at the spec's rate, spec, front end) -> F0 in Hz (T,), T = spec.frames(L), 0 where unvoiced.

What a model is told of unvoiced frames is `runtime.pitch.told_f0`.
"""

_WORLD_RANGE_HZ = (50.0, 1100.0)
_UNVOICED_HZ = 1e-3
"""What WORLD gives below this is no pitch, the authors say."""


def swift_f0(audio: NDArray[np.float32], spec: AudioSpec, front_end: FrontEnd) -> NDArray[np.float32]:
    """The runtime's own: the shipped pitch graph (swift-f0), taken at the front end's instants."""
    at_16k = resample(audio, spec.sample_rate, PITCH_SAMPLE_RATE)
    f0_hz, confidence, _ = second_opinion(at_16k, *track_pitch(pitch_session(), at_16k))
    return f0_at_frames(f0_hz, confidence, spec.frames(len(audio)), spec, instant=front_end.instant)


def dio_f0(audio: NDArray[np.float32], spec: AudioSpec, front_end: FrontEnd) -> NDArray[np.float32]:
    """DIO refined by StoneMask (WORLD, Morise et al. 2009), as CoMoSVC takes it: 50 to 1100 Hz, to a tenth of a hertz.

    WORLD gives a frame more than the mel has, and the authors squeeze them together; a frame next to an unvoiced one
    becomes unvoiced itself. Frames begin at the clip's start, whatever `front_end` says.
    """
    world, signal = _world(), audio.astype(np.float64)
    f0_hz, times = world.dio(signal, spec.sample_rate, *_WORLD_RANGE_HZ, frame_period=_hop_ms(spec))
    f0_hz = np.round(world.stonemask(signal, f0_hz, times, spec.sample_rate), 1)
    return squeezed(f0_hz, spec.frames(len(audio)))


def harvest_f0(audio: NDArray[np.float32], spec: AudioSpec, front_end: FrontEnd) -> NDArray[np.float32]:
    """Harvest (WORLD, Morise 2017) over the same range: fewer octave errors than DIO, ten times slower."""
    signal = audio.astype(np.float64)
    f0_hz, _ = _world().harvest(signal, spec.sample_rate, *_WORLD_RANGE_HZ, frame_period=_hop_ms(spec))
    return squeezed(f0_hz, spec.frames(len(audio)))


EXTRACTORS: dict[F0Name, F0Extractor] = {"swift-f0": swift_f0, "dio": dio_f0, "harvest": harvest_f0}
"""By name; those of WORLD raise `ConfigError` where its package is not installed."""


def squeezed(f0_hz: NDArray[np.float64], n_frames: int) -> NDArray[np.float32]:
    """F0 (P,) brought to `n_frames` by linear interpolation over its whole length, unvoiced where either neighbour is.

    Source: the authors' resize_f0.
    """
    known = np.where(f0_hz < _UNVOICED_HZ, np.nan, f0_hz)
    places = np.arange(n_frames) * len(f0_hz) / n_frames
    return np.nan_to_num(np.interp(places, np.arange(len(f0_hz)), known)).astype(np.float32)


@cache
def pitch_session() -> onnxruntime.InferenceSession:
    """One session a process: the shipped pitch graph on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    model = resources.files("comosvc.runtime").joinpath("data/pitch.onnx").read_bytes()
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _hop_ms(spec: AudioSpec) -> float:
    return 1e3 / spec.frame_rate_hz


def _world() -> Any:
    try:
        return import_module("pyworld")
    except ImportError as error:
        raise ConfigError(f"the F0 extractors dio and harvest need pyworld ({error})\nhint: {install('f0')}") from error
