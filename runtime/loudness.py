"""Loudness of each mel frame, without energy below the band of a voice."""

import numpy as np
from numpy.typing import NDArray

from .high_pass import HighPass
from .mel import frames, hann
from .spec import AudioSpec, FrontEnd

RUMBLE_HZ = 33.0
"""Offset and energy up to this frequency are excluded from loudness; the lowest voices begin an octave above."""
HUM_HZ = 125.0
"""Energy up to this frequency, at -20 dB and less, opens no gate: mains hum and its first harmonic. Sung sounds have
energy above."""


def loudness(audio: NDArray[np.float32], spec: AudioSpec) -> NDArray[np.float32]:
    """`frame_rms` (T,) of a clip (L,) above `RUMBLE_HZ`, the loudness condition of our own models.

    Limited by `frame_rms` of the unfiltered clip, because the filter rings on after an abrupt end.
    """
    return np.minimum(frame_rms(HighPass(spec.sample_rate, RUMBLE_HZ).push(audio), spec), frame_rms(audio, spec))


def without_hum(rate: int) -> HighPass:
    """A filter that removes energy below `HUM_HZ`."""
    return HighPass(rate, HUM_HZ, order=7, stop_db=45.0)


def voice_band(audio: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    """A clip (L,) without offset, rumble and hum, the signal that gates and slicing are decided on."""
    return without_hum(rate).push(HighPass(rate, RUMBLE_HZ).push(audio))


def gate_loudness(audio: NDArray[np.float32], spec: AudioSpec) -> NDArray[np.float32]:
    """Loudness (T,) of a whole clip for its gate: as `loudness`, for energy above `HUM_HZ`."""
    return np.minimum(frame_rms(voice_band(audio, spec.sample_rate), spec), frame_rms(audio, spec))


def frame_rms(audio: NDArray[np.float32], spec: AudioSpec) -> NDArray[np.float32]:
    """Root mean square of each mel frame under its Hann window, (T,), linear amplitude; a full-scale sine gives 0.707.

    The authors take 128 samples without a window; at 24 kHz that is shorter than one period of a voice below 190 Hz,
    and the result beats with the pulses. The mel's own frame does not.
    """
    window = hann(spec.win_length)
    weight = (window / window.sum()).astype(np.float32)
    views = frames(audio, spec)
    power = np.empty(len(views), np.float32)
    for start in range(0, len(views), 4096):
        power[start : start + 4096] = np.square(views[start : start + 4096]) @ weight
    return np.sqrt(power)


def hop_loudness(audio: NDArray[np.float32], spec: AudioSpec, instant: float = 0.0) -> NDArray[np.float32]:
    """Root mean square of `hop_length` samples for each mel frame, (T,), linear amplitude, without a window.

    Frame n's samples are centred `instant` hops after sample hop_length * n. At 0, the authors' place, the squares are
    mirrored at the clip's start. Source: CoMoSVC's Volume_Extractor.
    """
    hop, n_frames = spec.hop_length, spec.frames(len(audio))
    before = hop // 2 - round(instant * hop)
    squares = np.square(audio)
    if before > 0:
        squares = np.pad(squares, (before, 0), mode="reflect" if before < len(audio) else "constant")
    return np.sqrt(squares[: n_frames * hop].reshape(n_frames, hop).mean(axis=1))


def condition_loudness(audio: NDArray[np.float32], spec: AudioSpec, front_end: FrontEnd) -> NDArray[np.float32]:
    """Loudness (T,) of a whole clip, as a model with this front end takes it."""
    if front_end.loudness == "hann":
        return loudness(audio, spec)
    return hop_loudness(audio, spec, front_end.instant)
