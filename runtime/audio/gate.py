"""Exact silence in rests: a gate with hysteresis on the source's loudness."""

import numpy as np
from numpy.typing import NDArray

from .frames import ceil_div
from .spec import AudioSpec

OPEN_LOUDNESS = 1e-3
"""-60 dB: above the noise floor of a quiet room's recording, below the softest consonant of a sung line."""
CLOSE_LOUDNESS = 5e-4
"""-66 dB."""
OPEN_BEFORE_S, HOLD_S = 0.03, 0.1
"""The gate opens this much ahead, so that no onset is cut, and stays open this much longer, so that it does not
flutter."""


class Gate:
    """Open or closed for each mel frame, decided from loudness as it arrives."""

    def __init__(self, spec: AudioSpec, open_before_s: float = OPEN_BEFORE_S) -> None:
        self.before = ceil_div(round(open_before_s * spec.sample_rate), spec.hop_length)
        """Frames by which the answer lags behind."""
        self._hold = ceil_div(round(HOLD_S * spec.sample_rate), spec.hop_length)
        self._singing = False
        self._recent = np.zeros(self._hold, bool)  # singing or not, for the frames that can still hold the gate open

    def push(self, loudness: NDArray[np.float32], last: bool) -> NDArray[np.bool_]:
        """Loudness of the next frames in; out, open or not for as many frames as are certain, all of them with `last`.

        Until `last` the answer lags `before` frames behind.
        """
        singing = self._hysteresis(loudness)
        recent = np.concatenate((self._recent, singing, np.zeros(self.before if last else 0, bool)))
        reach = self._hold + self.before
        if len(recent) <= reach:
            self._recent = recent
            return np.zeros(0, bool)
        counts = np.concatenate(([0], np.cumsum(recent)))
        self._recent = recent[len(recent) - reach :]
        return counts[reach + 1 :] - counts[: -(reach + 1)] > 0

    def _hysteresis(self, loudness: NDArray[np.float32]) -> NDArray[np.bool_]:
        """True from `OPEN_LOUDNESS` up, False below `CLOSE_LOUDNESS`, between them as in the frame before."""
        if not len(loudness):
            return np.zeros(0, bool)
        decided = (loudness >= OPEN_LOUDNESS) | (loudness < CLOSE_LOUDNESS)
        latest = np.maximum.accumulate(np.where(decided, np.arange(1, len(loudness) + 1), 0))
        singing = np.concatenate(([self._singing], loudness >= OPEN_LOUDNESS))[latest]
        self._singing = bool(singing[-1])
        return singing


def gains(
    is_open: NDArray[np.bool_], first_frame: int, first_sample: int, n_samples: int, sample_rate: int, spec: AudioSpec
) -> NDArray[np.float32]:
    """Gain for samples `first_sample` on at `sample_rate`, (L,): 0 in closed frames, a ramp of one frame at each edge.

    `is_open` holds the frames from `first_frame` on that these samples lie in, and one more on either side where the
    clip goes on; the clip's own ends have no ramp.
    """
    frames = np.arange(first_frame, first_frame + len(is_open) + 1, dtype=np.int64)
    # First sample of each frame, in whole numbers, so that a closed frame is zero to its last sample.
    starts = -(-frames * (spec.hop_length * sample_rate) // spec.sample_rate)
    bounds = np.clip(starts, first_sample, first_sample + n_samples) - first_sample
    gain = np.repeat(is_open.astype(np.float32), np.diff(bounds))
    flags = np.pad(is_open, 1, mode="edge")
    opens, closes = ~flags[:-2], ~flags[2:]
    for frame in np.flatnonzero(is_open & (opens | closes)):
        samples = np.arange(bounds[frame], bounds[frame + 1]) + first_sample
        within = samples * (spec.sample_rate / (sample_rate * spec.hop_length)) - frames[frame]
        up = within if opens[frame] else 1.0
        down = 1.0 - within if closes[frame] else 1.0
        gain[bounds[frame] : bounds[frame + 1]] = np.clip(up * down, 0.0, 1.0)
    return gain
