"""Fundamental frequency: from the pitch graph's own frames to one value for each mel frame."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .spec import AudioSpec

PITCH_SAMPLE_RATE = 16_000
PITCH_HOP_LENGTH = 256
VOICED_CONFIDENCE = 0.5
"""swift-f0 calibrates its confidence so that a frame is voiced from here on."""


class Session(Protocol):
    """What is used of `onnxruntime.InferenceSession`."""

    def run(self, output_names: list[str], input_feed: dict[str, NDArray], /) -> Any: ...


def track_pitch(session: Session, audio: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """F0 in Hz and confidence of `audio` (N,) at 16 kHz, each (P,); frame p is centred on sample 256 p."""
    f0_hz, confidence = session.run(["f0_hz", "confidence"], {"audio": audio[None]})
    return f0_hz[0], confidence[0]


def f0_at_frames(
    f0_hz: NDArray[np.float32],
    confidence: NDArray[np.float32],
    n_frames: int,
    spec: AudioSpec,
    first_frame: int = 0,
    first_pitch_frame: int = 0,
) -> NDArray[np.float32]:
    """F0 in Hz at each mel frame, (T,), 0 where unvoiced, from pitch frames 16 ms apart that begin at time 0.

    A mel frame is voiced where the confidence, interpolated in time, reaches `VOICED_CONFIDENCE`. Its F0 is
    interpolated in log frequency between the voiced pitch frames around it. For a piece of a clip, `first_frame` and
    `first_pitch_frame` say where in the clip the mel frames and the pitch frames begin (see `pitch_frames_around`).
    """
    times = _pitch_times(first_frame, n_frames, spec) - first_pitch_frame
    voiced = np.flatnonzero(confidence >= VOICED_CONFIDENCE)
    if len(voiced) == 0:
        return np.zeros(n_frames, np.float32)
    sure = np.interp(times, np.arange(len(confidence)), confidence) >= VOICED_CONFIDENCE
    # The nearest voiced frame may lie across an unvoiced gap; interpolate only inside a voiced run, hold at its ends.
    log_f0 = _log_f0_held(np.log(np.maximum(f0_hz, 1.0)), confidence >= VOICED_CONFIDENCE, times)
    return np.where(sure, np.exp(log_f0), 0.0).astype(np.float32)


def pitch_frames_around(first_frame: int, n_frames: int, spec: AudioSpec) -> tuple[int, int]:
    """First and last (exclusive) pitch frame that `f0_at_frames` interpolates between for these mel frames."""
    times = _pitch_times(first_frame, n_frames, spec)
    return int(times[0]), int(times[-1]) + 2


def _pitch_times(first_frame: int, n_frames: int, spec: AudioSpec) -> NDArray[np.float64]:
    """Centres of mel frames, counted in pitch frames."""
    seconds = (np.arange(first_frame, first_frame + n_frames) + 0.5) * spec.hop_length / spec.sample_rate
    return seconds * PITCH_SAMPLE_RATE / PITCH_HOP_LENGTH


def _log_f0_held(log_f0: NDArray, voiced: NDArray[np.bool_], times: NDArray[np.float64]) -> NDArray[np.float64]:
    before = np.clip(np.floor(times).astype(int), 0, len(log_f0) - 1)
    after = np.minimum(before + 1, len(log_f0) - 1)
    weight = np.where(voiced[before] & voiced[after], np.clip(times - before, 0.0, 1.0), voiced[after].astype(float))
    return (1.0 - weight) * log_f0[before] + weight * log_f0[after]
