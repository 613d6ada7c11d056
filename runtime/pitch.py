"""Fundamental frequency: from the pitch graph's own frames to one value for each mel frame."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .framing import ceil_div
from .spec import AudioSpec, FrontEnd

PITCH_SAMPLE_RATE = 16_000
PITCH_HOP_LENGTH = 256
MAX_GAP_S = 20.0
"""As long as the piece that the authors interpolate in."""
VOICED_CONFIDENCE = 0.5
"""swift-f0 calibrates its confidence so that a frame is voiced from here on."""
BOUNDED_WINDOW_HOPS = 12
"""What a pitch frame of a live conversion is made from: 192 ms, of which 176 lie before the frame's centre."""
BOUNDED_SILENCE_HOPS = 6
"""Zeros put behind that window: the confidence of a frame at the very end of an array is near 0 whatever is sung, as
the network pads there with something that is no audio. Followed by silence it is nearly that of the whole clip."""


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
    instant: float = 0.5,
) -> NDArray[np.float32]:
    """F0 in Hz at each mel frame, (T,), 0 where unvoiced, from pitch frames 16 ms apart that begin at time 0.

    A mel frame is voiced where the confidence, interpolated in time, reaches `VOICED_CONFIDENCE`. Its F0 is
    interpolated in log frequency between the voiced pitch frames around it. For a piece of a clip, `first_frame` and
    `first_pitch_frame` say where in the clip the mel frames and the pitch frames begin (see `pitch_frames_around`).
    `instant` is where in its hop a mel frame's F0 is taken.
    """
    times = _pitch_times(first_frame, n_frames, spec, instant) - first_pitch_frame
    voiced = np.flatnonzero(confidence >= VOICED_CONFIDENCE)
    if len(voiced) == 0:
        return np.zeros(n_frames, np.float32)
    sure = np.interp(times, np.arange(len(confidence)), confidence) >= VOICED_CONFIDENCE
    # The nearest voiced frame may lie across an unvoiced gap; interpolate only inside a voiced run, hold at its ends.
    log_f0 = _log_f0_held(np.log(np.maximum(f0_hz, 1.0)), confidence >= VOICED_CONFIDENCE, times)
    return np.where(sure, np.exp(log_f0), 0.0).astype(np.float32)


def held_pitch_frames(first_frame: int, n_frames: int, spec: AudioSpec, instant: float = 0.5) -> NDArray[np.int64]:
    """For mel frames `first_frame` on, the newest pitch frame that is not later, (T,): live, its F0 is held."""
    twice = 2 * np.arange(first_frame, first_frame + n_frames, dtype=np.int64) + round(2 * instant)
    return twice * (spec.hop_length * PITCH_SAMPLE_RATE) // (2 * PITCH_HOP_LENGTH * spec.sample_rate)


def mel_frames_held(n_pitch_frames: int, spec: AudioSpec, instant: float = 0.5) -> int:
    """Mel frames whose newest pitch frame (`held_pitch_frames`) is among the first `n_pitch_frames`."""
    twice = ceil_div(n_pitch_frames * 2 * PITCH_HOP_LENGTH * spec.sample_rate, spec.hop_length * PITCH_SAMPLE_RATE)
    return max(0, ceil_div(twice - round(2 * instant), 2))


def pitch_frames_around(first_frame: int, n_frames: int, spec: AudioSpec, instant: float = 0.5) -> tuple[int, int]:
    """First and last (exclusive) pitch frame that `f0_at_frames` interpolates between for these mel frames."""
    times = _pitch_times(first_frame, n_frames, spec, instant)
    return int(times[0]), int(times[-1]) + 2


def _pitch_times(first_frame: int, n_frames: int, spec: AudioSpec, instant: float) -> NDArray[np.float64]:
    """Instants of mel frames, counted in pitch frames."""
    seconds = (np.arange(first_frame, first_frame + n_frames) + instant) * spec.hop_length / spec.sample_rate
    return seconds * PITCH_SAMPLE_RATE / PITCH_HOP_LENGTH


def _log_f0_held(log_f0: NDArray, voiced: NDArray[np.bool_], times: NDArray[np.float64]) -> NDArray[np.float64]:
    before = np.clip(np.floor(times).astype(int), 0, len(log_f0) - 1)
    after = np.minimum(before + 1, len(log_f0) - 1)
    weight = np.where(voiced[before] & voiced[after], np.clip(times - before, 0.0, 1.0), voiced[after].astype(float))
    return (1.0 - weight) * log_f0[before] + weight * log_f0[after]


def told_f0(f0_hz: NDArray[np.float32], spec: AudioSpec, front_end: FrontEnd) -> NDArray[np.float32]:
    """A whole clip's F0 (T,), 0 where unvoiced, as a model with this front end is told it."""
    return GapBridge(spec).push(f0_hz, last=True) if front_end.unvoiced_f0 == "interpolated" else f0_hz


class GapBridge:
    """F0 of a clip as its frames come, made continuous: a straight line through each unvoiced gap, the nearest voiced
    value before the first voiced frame and after the last. All 0 stays 0.

    A gap of more than `MAX_GAP_S` holds the value before it (0 if there is none), so that memory stays flat. Source:
    the authors' interpolate_f0, which knows no such limit and sees 20 s at most.
    """

    def __init__(self, spec: AudioSpec) -> None:
        self._limit = round(MAX_GAP_S * spec.frame_rate_hz)
        self._before = 0.0
        self._gap, self._gave_up = 0, False

    def push(self, f0_hz: NDArray[np.float32], last: bool) -> NDArray[np.float32]:
        """The next frames in, as many as are certain out; with `last` all that remain."""
        done = [np.zeros(0, np.float32)]
        runs = np.split(f0_hz, np.flatnonzero(np.diff(f0_hz > 0.0)) + 1) if len(f0_hz) else []
        for run in runs:
            if run[0] > 0.0:
                done += [self._line_to(float(run[0])), run]
                self._before, self._gave_up = float(run[-1]), False
            else:
                self._gap += len(run)
                self._gave_up = self._gave_up or self._gap > self._limit
                if self._gave_up:
                    done.append(self._line_to(self._before))
        if last:
            done.append(self._line_to(self._before))
        return np.concatenate(done)

    def _line_to(self, value: float) -> NDArray[np.float32]:
        """The pending gap, ending before a frame of `value` Hz."""
        start = value if self._before == 0.0 and not self._gave_up else self._before
        line = np.linspace(start, value, self._gap + 2)[1:-1].astype(np.float32)
        self._gap = 0
        return line
