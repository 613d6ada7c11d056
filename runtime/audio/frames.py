"""Positions of frames of one rate among frames and samples of another, and growing signals by absolute position.

Integer arithmetic: exact at any position.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .spec import AudioSpec, FrontEnd


def ceil_div(numerator: int, denominator: int) -> int:
    """Quotient rounded up."""
    return -(-numerator // denominator)


def frames_to_cover(n_samples: int, sample_rate: int, spec: AudioSpec) -> int:
    """Mel frames that a clip of `n_samples` at `sample_rate` is converted in; the last may be partly past its end."""
    return max(1, ceil_div(n_samples * spec.sample_rate, sample_rate * spec.hop_length))


def clip_frames(n_samples: int, sample_rate: int, spec: AudioSpec, front_end: FrontEnd) -> int:
    """Number of mel frames, T, of a clip of `n_samples` at `sample_rate`.

    The frames that cover the clip; where content is stretched over the clip, its whole hops, as the authors count. The
    rest of less than a hop is then converted as part of the frames behind the end.
    """
    if front_end.content_index != "stretched":
        return frames_to_cover(n_samples, sample_rate, spec)
    at_model_rate = (2 * n_samples * spec.sample_rate + sample_rate) // (2 * sample_rate)  # rounded, as resamplers do
    return max(1, spec.frames(at_model_rate))


def content_index(first_frame: int, n_frames: int, spec: AudioSpec) -> NDArray[np.int64]:
    """For mel frames `first_frame` on, the content frame nearest in time, (T,).

    Both kinds of frame are centred in their hop, so the nearest is the one whose hop holds the mel frame's centre.
    """
    twice_centre = 2 * np.arange(first_frame, first_frame + n_frames, dtype=np.int64) + 1
    numerator = twice_centre * (spec.hop_length * spec.content_sample_rate)
    return numerator // (2 * spec.sample_rate * spec.content_hop_length)


def frames_within_content(n_content: int, spec: AudioSpec) -> int:
    """Mel frames whose content frame (`content_index`) is among the first `n_content`."""
    twice_centre = ceil_div(
        n_content * 2 * spec.sample_rate * spec.content_hop_length, spec.hop_length * spec.content_sample_rate
    )
    return max(0, ceil_div(twice_centre - 1, 2))


def stretched_index(n_content: int, n_frames: int) -> NDArray[np.int64]:
    """For each of a piece's `n_frames` mel frames its content frame of `n_content`, floor(i S / T), (T,).

    The authors' alignment (`F.interpolate(mode="nearest")`): the content is stretched to the mel's length.
    """
    return np.arange(n_frames, dtype=np.int64) * n_content // n_frames


def pieces(done: int, size: int, goal: int | None, is_ready: Callable[[int, int], bool]) -> Iterator[tuple[int, int]]:
    """The pieces from position `done` to `goal`; while the goal is unknown, the whole pieces that are ready.

    Their grid does not depend on the blocks of input.
    """
    while goal is None or done < goal:
        end = (done // size + 1) * size
        if goal is None and not is_ready(done, end):
            return
        first, done = done, end if goal is None else min(end, goal)
        yield first, done


def mel_range(first_sample: int, last_sample: int, sample_rate: int, spec: AudioSpec) -> tuple[int, int]:
    """Mel frames, first and last (exclusive), that samples `first_sample` to `last_sample` at `sample_rate` touch."""
    first = first_sample * spec.sample_rate // (sample_rate * spec.hop_length)
    return first, ceil_div(last_sample * spec.sample_rate, sample_rate * spec.hop_length)


def samples_before(frame: int, sample_rate: int, spec: AudioSpec) -> int:
    """Samples at `sample_rate` that lie wholly before mel frame `frame`."""
    return frame * spec.hop_length * sample_rate // spec.sample_rate


class ArrivedClip(Protocol):
    """The part of a clip that has arrived: see `analysis.Analysis`."""

    n_frames: int | None

    @property
    def goal(self) -> int | None: ...

    def has_frame(self, frame: int) -> bool: ...


@dataclass(frozen=True)
class Window:
    """Mel frames `start` to `end`, analysed as a whole. The results are used up to frame `used_end`."""

    start: int
    end: int
    used_end: int
    is_last: bool
    """The window ends with the clip."""


class Windows:
    """Overlapping windows of one length, anchored to absolute time, for analyses that depend on all of their input.

    Each window is used up to the middle of its overlap with the next one. The last window ends with the clip.
    """

    def __init__(self, window_s: float, overlap_s: float, spec: AudioSpec) -> None:
        self._length, self._overlap = round(window_s * spec.frame_rate_hz), round(overlap_s * spec.frame_rate_hz)
        self.start = 0
        """First mel frame of the next window."""

    def next(self, clip: "ArrivedClip") -> Window | None:
        """The next window; None while its audio is incomplete."""
        start, end = self.start, self.start + self._length
        is_last = clip.n_frames is not None and clip.n_frames <= end
        if clip.n_frames is None and not clip.has_frame(end):
            return None
        self.start += self._length - self._overlap
        if is_last:
            assert clip.n_frames is not None
            assert clip.goal is not None
            return Window(start, clip.n_frames, clip.goal, True)
        return Window(start, end, end - self._overlap // 2, False)


class Track:
    """Samples or frames `start` to `end` of a signal. `width` is the shape of one of them: () for a scalar."""

    def __init__(self, width: tuple[int, ...] = (), dtype: type[np.generic] = np.float32) -> None:
        self._held = np.zeros((0, *width), dtype)
        self.start = 0

    @property
    def end(self) -> int:
        return self.start + len(self._held)

    def append(self, values: NDArray) -> None:
        self._held = np.concatenate((self._held, values.astype(self._held.dtype, copy=False)))

    def append_zeros(self, count: int) -> None:
        self.append(np.zeros((count, *self._held.shape[1:]), self._held.dtype))

    def read(self, first: int, last: int) -> NDArray:
        """Positions `first` to `last` (exclusive), which must be there."""
        assert self.start <= first <= last <= self.end, (self.start, first, last, self.end)
        return self._held[first - self.start : last - self.start]

    def read_padded(self, first: int, last: int) -> NDArray:
        """As `read`, with zeros beyond the end."""
        inside = self.read(min(first, self.end), min(last, self.end))
        missing = last - first - len(inside)
        return np.concatenate((inside, np.zeros((missing, *inside.shape[1:]), inside.dtype))) if missing else inside

    def restart(self, at: int) -> None:
        """Drop everything; the next appended values begin at position `at`."""
        self._held, self.start = self._held[:0], at

    def forget(self, before: int) -> None:
        """Drop the values before position `before`."""
        cut = min(max(before - self.start, 0), len(self._held))
        if cut:
            self._held = self._held[cut:].copy()
            self.start += cut
